// The environment's table, and that each format's quoting comes back unchanged from the program that reads
// it.
#include "agent/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <map>

#include "agent/java_options.h"

namespace weir::agent {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

namespace {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

// Everything that one of the formats treats specially, but for the line break, which env-files cannot hold.
constexpr std::string_view nasty = R"( a'b"c\d$HOME `id` %h $(id) #! {"x":1} \n =)"
                                   "\t\xc3\xa9";

EnvironmentInputs inputs_with(Environment inherited, const fs::path& directory = "/var/lib/weir/ca") {
  return {.proxy_url = "http://127.0.0.1:7443",
          .proxy_host = "127.0.0.1",
          .proxy_port = 7443,
          .ca_certificate = directory / "ca.crt",
          .bundle = directory / "bundle.pem",
          .pkcs12 = directory / "truststore.p12",
          .wgetrc = directory / "wgetrc",
          .php_directory = directory / "php",
          .inherited = [inherited](std::string_view name) -> std::optional<std::string> {
            const auto found = inherited.find(std::string(name));
            if (found == inherited.end()) return std::nullopt;
            return found->second;
          }};
}

Environment as_map(const std::vector<Variable>& variables) {
  Environment environment;
  for (const auto& [name, value] : variables) EXPECT_TRUE(environment.emplace(name, value).second) << name;
  return environment;
}

std::string java_options(const std::string& inherited) {
  return as_map(client_environment(inputs_with({{"JAVA_TOOL_OPTIONS", inherited}})))["JAVA_TOOL_OPTIONS"];
}

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string text;
  std::array<char, 4096> buffer{};
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    text.append(buffer.data(), got);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

class EnvironmentTest : public ::testing::Test {
 protected:
  EnvironmentTest() {
    std::string pattern = (fs::temp_directory_path() / "weir-env-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~EnvironmentTest() override { fs::remove_all(directory_); }

  std::string put(std::string_view content) {
    const fs::path file = directory_ / "file";
    std::ofstream(file, std::ios::binary) << content;
    return file.string();
  }

  fs::path directory_;
};

}  // namespace

TEST_F(EnvironmentTest, TellsEachRuntimeAboutTheProxy) {
  Environment environment = as_map(client_environment(inputs_with({})));
  for (const char* name : {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
                           "WS_PROXY", "WSS_PROXY", "GRPC_PROXY", "grpc_proxy", "GLOBAL_AGENT_HTTP_PROXY",
                           "CGI_HTTP_PROXY", "npm_config_proxy", "npm_config_https_proxy"})
    EXPECT_EQ(environment[name], "http://127.0.0.1:7443") << name;
  EXPECT_EQ(environment["CLOUDSDK_PROXY_TYPE"], "http");
  EXPECT_EQ(environment["CLOUDSDK_PROXY_ADDRESS"], "127.0.0.1");
  EXPECT_EQ(environment["CLOUDSDK_PROXY_PORT"], "7443");
  EXPECT_EQ(environment["NODE_USE_ENV_PROXY"], "1");
}

TEST_F(EnvironmentTest, VariablesThatAddGetTheRootAloneAndThoseThatReplaceTheBundle) {
  Environment environment = as_map(client_environment(inputs_with({})));
  for (const char* name : {"NODE_EXTRA_CA_CERTS", "DENO_CERT"})
    EXPECT_EQ(environment[name], "/var/lib/weir/ca/ca.crt") << name;
  for (const char* name :
       {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "PERL_LWP_SSL_CA_FILE", "HTTPLIB2_CA_CERTS",
        "NIX_SSL_CERT_FILE", "HEX_CACERTS_PATH", "BUNDLE_SSL_CA_CERT", "npm_config_cafile",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"})
    EXPECT_EQ(environment[name], "/var/lib/weir/ca/bundle.pem") << name;
  EXPECT_FALSE(environment.contains("SSL_CERT_DIR"));
}

TEST_F(EnvironmentTest, InheritedExceptionsAreEmptiedNotLeftOut) {
  Environment environment = as_map(client_environment(inputs_with({{"NO_PROXY", "localhost,127.0.0.1"}})));
  for (const char* name : {"NO_PROXY", "no_proxy"}) {
    ASSERT_TRUE(environment.contains(name)) << name;
    EXPECT_EQ(environment[name], "") << name;
  }
}

TEST_F(EnvironmentTest, WgetAndPhpAreToldOfAFileOfSettings) {
  EXPECT_EQ(as_map(client_environment(inputs_with({})))["SYSTEM_WGETRC"], "/var/lib/weir/ca/wgetrc");
  const auto scanned = [](const Environment& inherited) {
    return as_map(client_environment(inputs_with(inherited)))["PHP_INI_SCAN_DIR"];
  };
  EXPECT_EQ(scanned({}), ":/var/lib/weir/ca/php");
  EXPECT_EQ(scanned({{"PHP_INI_SCAN_DIR", "/own"}}), "/own:/var/lib/weir/ca/php");
}

TEST_F(EnvironmentTest, JavaGetsProxyAndTrustStore) {
  EXPECT_EQ(
      java_options(""),
      "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=7443 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=7443 "
      "-Dhttp.nonProxyHosts= -Djavax.net.ssl.trustStore=/var/lib/weir/ca/truststore.p12 "
      "-Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStoreType=PKCS12");
}

TEST_F(EnvironmentTest, EachPartStandsAloneAndBothMakeTheWhole) {
  const auto inputs = inputs_with({{"JAVA_TOOL_OPTIONS", "-ea"}});
  Environment proxy = as_map(client_environment(inputs, {.proxy = true, .trust = false}));
  Environment trust = as_map(client_environment(inputs, {.proxy = false, .trust = true}));
  EXPECT_EQ(proxy["JAVA_TOOL_OPTIONS"],
            "-ea -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=7443 -Dhttps.proxyHost=127.0.0.1 "
            "-Dhttps.proxyPort=7443 -Dhttp.nonProxyHosts=");
  EXPECT_EQ(trust["JAVA_TOOL_OPTIONS"],
            "-ea -Djavax.net.ssl.trustStore=/var/lib/weir/ca/truststore.p12 "
            "-Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStoreType=PKCS12");
  for (const auto& [name, value] : proxy) {
    EXPECT_EQ(value.find("/var/lib/weir"), std::string::npos) << name;
    EXPECT_EQ(trust.contains(name), name == "JAVA_TOOL_OPTIONS") << name;
  }
  for (const auto& [name, value] : trust) EXPECT_EQ(value.find("7443"), std::string::npos) << name;
  EXPECT_THAT(client_environment(inputs, {.proxy = false, .trust = false}), ::testing::IsEmpty());
  trust.merge(proxy);
  EXPECT_EQ(trust.size(), client_environment(inputs).size());
}

TEST_F(EnvironmentTest, JavasInheritedOptionsAreKeptAsWritten) {
  EXPECT_THAT(java_options("-Xmx1g   -Dname='a b' -Dhttp.proxyHostile=x"),
              StartsWith("-Xmx1g -Dname='a b' -Dhttp.proxyHostile=x -Dhttp.proxyHost="));
}

TEST_F(EnvironmentTest, JavasInheritedSettingsOfTheSamePropertiesGiveWay) {
  const std::string options = java_options(
      "-D'http.proxyHost'=other -Dhttp.nonProxyHosts=\"a b|c\"\n-Djavax.net.ssl.trustStoreType -ea");
  EXPECT_THAT(options, StartsWith("-ea -Dhttp.proxyHost=127.0.0.1 "));
  EXPECT_THAT(options, Not(HasSubstr("other")));
  EXPECT_THAT(options, Not(HasSubstr("b|c")));
}

TEST_F(EnvironmentTest, NestedItChangesNothing) {
  const Environment first =
      as_map(client_environment(inputs_with({{"JAVA_TOOL_OPTIONS", "-Xmx1g"}}, "/with 'a \"space")));
  EXPECT_EQ(as_map(client_environment(inputs_with(first, "/with 'a \"space"))), first);
}

TEST_F(EnvironmentTest, ARealJvmSeesPathsWithSpacesAndQuotes) {
  if (std::system("command -v java >/dev/null") != 0) FAIL() << "no java: run scripts/setup";
  const std::string odd = R"(/a b/c'd "e)";
  const Environment environment =
      as_map(client_environment(inputs_with({{"JAVA_TOOL_OPTIONS", "-Dkept='x y'"}}, odd)));
  const std::vector<Variable> only = {{"JAVA_TOOL_OPTIONS", environment.at("JAVA_TOOL_OPTIONS")}};
  const std::string file = put(render(only, EnvironmentFormat::sh));
  const std::string settings =
      output_of("sh -c '. " + file + "; java -XshowSettings:properties -version 2>&1'");
  EXPECT_THAT(settings, HasSubstr("javax.net.ssl.trustStore = " + odd + "/truststore.p12\n"));
  EXPECT_THAT(settings, HasSubstr("http.nonProxyHosts = \n"));
  EXPECT_THAT(settings, HasSubstr("kept = x y\n"));
}

TEST_F(EnvironmentTest, ShellsReadBackWhatWasWritten) {
  const std::vector<Variable> variables = {
      {"NASTY", std::string(nasty)}, {"LINES", "a\n'b\n\n"}, {"EMPTY", ""}};
  const std::string file = put(render(variables, EnvironmentFormat::sh));
  const std::string read =
      output_of("env -i sh -c '. " + file + R"(; printf "%s|%s|%s." "$NASTY" "$LINES" "${EMPTY-unset}"')");
  EXPECT_EQ(read, std::string(nasty) + "|a\n'b\n\n|.");
}

TEST_F(EnvironmentTest, DotenvIsAShellFragmentToo) {
  for (const std::string& value : {std::string(nasty), std::string(R"(say "x" \ $y)"), std::string()}) {
    const std::vector<Variable> variables = {{"VALUE", value}};
    const std::string file = put(render(variables, EnvironmentFormat::dotenv));
    EXPECT_EQ(output_of("env -i sh -c '. " + file + R"(; printf "%s." "$VALUE"')"), value + ".");
  }
  EXPECT_EQ(render(std::vector<Variable>{{"A", "x\ny"}}, EnvironmentFormat::dotenv), "A=\"x\\ny\"\n");
}

TEST_F(EnvironmentTest, JsonReadsBack) {
  if (std::system("command -v python3 >/dev/null") != 0) FAIL() << "no python3: run scripts/setup";
  const std::string value = std::string(nasty) + "\n\x01";
  const std::vector<Variable> variables = {{"FIRST", value}, {"EMPTY", ""}};
  const std::string file = put(render(variables, EnvironmentFormat::json));
  EXPECT_EQ(
      output_of("python3 -c 'import json; d = json.load(open(\"" + file +
                "\", encoding=\"utf-8\")); import sys; "
                "sys.stdout.buffer.write((d[\"FIRST\"] + \"|\" + d[\"EMPTY\"] + str(len(d))).encode())'"),
      value + "|2");
}

// systemd.exec(5) and systemd.syntax(7): one double-quoted word, C escapes, and '%' doubled.
TEST_F(EnvironmentTest, SystemdGetsADropIn) {
  const std::vector<Variable> variables = {{"A", "x y\"\\%h$B\n"}, {"EMPTY", ""}};
  EXPECT_EQ(render(variables, EnvironmentFormat::systemd),
            "[Service]\n"
            "Environment=\"A=x y\\\"\\\\%%h$B\\n\"\n"
            "Environment=\"EMPTY=\"\n");
}

TEST_F(EnvironmentTest, FishQuotesWithBackslashes) {
  const std::vector<Variable> variables = {{"A", R"(it's \ $B)"}};
  EXPECT_EQ(render(variables, EnvironmentFormat::fish), R"(set -gx A 'it\'s \\ $B')"
                                                        "\n");
}

TEST_F(EnvironmentTest, DockersEnvFileHasNoQuotesAndNoLineBreaks) {
  const std::vector<Variable> variables = {{"A", "x 'y' \"z\""}, {"B", "a\nEVIL=1"}, {"EMPTY", ""}};
  EXPECT_EQ(render(variables, EnvironmentFormat::docker),
            "A=x 'y' \"z\"\n# B is left out: its value has a line break\nEMPTY=\n");
}

TEST_F(EnvironmentTest, TheSourceableFormTakesOverTheVariablesOrLeavesTheShellAsItWas) {
  const std::string weir = put(R"sh(#!/bin/sh
[ "$*" = "env --state-dir=/a b --format sh" ] && echo "export GIVEN='x  y'"
)sh");
  fs::permissions(weir, fs::perms::owner_all);
  const std::string source =
      "env -i WEIR=" + weir + " WEIR_STATE_DIR='/a b' sh -euc '. " WEIR_SOURCE_DIR "/scripts/env/weir.sh";
  EXPECT_EQ(output_of(source + R"(; printf "%s." "$GIVEN"; set | grep -c ^_weir_env || true')"), "x  y.0\n");
  const std::string failing = "env -i WEIR=/bin/false sh -uc '. " WEIR_SOURCE_DIR "/scripts/env/weir.sh";
  EXPECT_EQ(output_of(failing + R"( || printf "%s." "${HTTP_PROXY-unset}"')"), "unset.");
}

TEST_F(EnvironmentTest, FormatsAreFoundByName) {
  EXPECT_EQ(parse_environment_format("systemd"), EnvironmentFormat::systemd);
  const auto unknown = parse_environment_format("csh");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(to_string(unknown.error()),
            "unknown format 'csh': use one of sh, fish, dotenv, json, systemd, docker");
}

}  // namespace weir::agent
