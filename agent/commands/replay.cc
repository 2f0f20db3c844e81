// `weir replay`: a recorded event stream through the engine, without root, kernel or network.
#include <CLI/CLI.hpp>
#include <iostream>
#include <optional>

#include "agent/command.h"
#include "agent/error.h"
#include "agent/process_info.h"
#include "attribution/engine.h"
#include "attribution/recording.h"

namespace weir::agent {
namespace {

// One engine for each session of the recording, as each was another engine's input.
class Replayer {
 public:
  explicit Replayer(bool bodies) : bodies_(bodies) {}
  ~Replayer() { finish(); }
  Replayer(const Replayer&) = delete;
  Replayer& operator=(const Replayer&) = delete;

  void begin(const RecordingSession& session) {
    finish();
    EngineConfig config;
    config.host_id = session.host_id;
    config.boot_id = session.boot_id;
    config.boot_time = session.boot_time;
    config.proxy_listeners = session.proxy_listeners;
    config.own_pids = session.own_pids;
    config.user_name = UserNames();
    config.capture_bodies = bodies_;
    engine_.emplace(config, [](const RecordPtr& record) { std::cout << record->json << '\n'; });
  }

  void consume(Event event) {
    last_ = std::max(last_, time_of(event));
    engine_->consume(std::move(event));
    engine_->advance(last_);
  }

 private:
  void finish() {
    if (engine_) engine_->finish(last_);
    engine_.reset();
  }

  bool bodies_;
  std::optional<Engine> engine_;
  Time last_{};
};

int run(const std::string& file, bool bodies) {
  std::expected<void, std::string> replayed;
  {
    Replayer replayer(bodies);
    replayed = replay(
        file, [&](const RecordingSession& session) { replayer.begin(session); },
        [&](Event event) { replayer.consume(std::move(event)); });
  }
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
  CLI::App* command =
      app.add_subcommand("replay", "Records of an event stream that `weir agent --record` wrote");
  command->footer("Example:\n  weir replay events.jsonl | jq -r '.[\"url.full\"]'");
  command->add_option("file", options->file, "the recording")->required()->type_name("FILE");
  command->add_flag("--bodies", options->bodies, "with bodies");
  command->callback(
      [options, &action] { action = [options] { return run(options->file, options->bodies); }; });
}

}  // namespace weir::agent
