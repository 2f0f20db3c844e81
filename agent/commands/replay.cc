// `weir replay`: a recorded event stream through the engine, without root, kernel or network.
#include <CLI/CLI.hpp>
#include <iostream>

#include "agent/command.h"
#include "agent/error.h"
#include "attribution/engine.h"
#include "attribution/recording.h"

namespace weir::agent {
namespace {

int run(const std::string& file, bool bodies) {
  EngineConfig config;
  config.capture_bodies = bodies;
  Time last{};
  Engine engine(config, [](const RecordPtr& record) { std::cout << to_json(*record) << '\n'; });
  auto replayed = replay(file, [&](Event event) {
    std::visit([&](const auto& of_any_kind) { last = std::max(last, of_any_kind.time); }, event);
    engine.consume(std::move(event));
    engine.advance(last);
  });
  engine.finish(last);
  std::cout.flush();
  if (!replayed) return report({replayed.error(), ""});
  return 0;
}

}  // namespace

void add_replay_command(CLI::App& app, Action& action) {
  struct Options {
    std::string file;
    bool bodies = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("replay", "Records of an event stream that `weir agent --record` wrote");
  command->footer("Example:\n  weir replay events.jsonl | jq -r '.[\"url.full\"]'");
  command->add_option("file", options->file, "the recording")->required()->type_name("FILE");
  command->add_flag("--bodies", options->bodies, "with bodies");
  command->callback([options, &action] { action = [options] { return run(options->file, options->bodies); }; });
}

}  // namespace weir::agent
