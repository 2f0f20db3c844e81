// Secrets in known places never reach a record; everything else does.
#include "attribution/redaction.h"

#include <gtest/gtest.h>

namespace weir {
namespace {

using Arguments = std::vector<std::string>;

struct Case {
  std::string in;
  std::string out;
};

TEST(Redaction, Urls) {
  const Case cases[] = {
      {"https://example.test/a?b=c#d", "https://example.test/a?b=c#d"},
      {"https://me:pass@example.test/a", "https://[redacted]@example.test/a"},
      {"https://me@example.test", "https://[redacted]@example.test"},
      {"https://h/?user=a@b.test", "https://h/?user=a@b.test"},
      {"https://h/?access_token=x&q=1", "https://h/?access_token=[redacted]&q=1"},
      {"https://h/?q=1&API-Key=x", "https://h/?q=1&API-Key=[redacted]"},
      {"https://h/?key=x&monkey=y", "https://h/?key=[redacted]&monkey=y"},
      {"https://h/?access%5Ftoken=x", "https://h/?access%5Ftoken=[redacted]"},
      {"https://h/cb#access_token=x&state=y", "https://h/cb#access_token=[redacted]&state=y"},
      {"https://h/?X-Amz-Signature=x&X-Amz-Date=1", "https://h/?X-Amz-Signature=[redacted]&X-Amz-Date=1"},
      {"https://h/?sig=x&se=2", "https://h/?sig=[redacted]&se=2"},
      {"https://h/?password=a?b", "https://h/?password=[redacted]?b"},
      {"https://h/password/reset?x=1", "https://h/password/reset?x=1"},
      {"https://h/https://me:p@i/x?y=http://me:p&q@j/",
       "https://h/https://[redacted]@i/x?y=http://[redacted]@j/"},
      {"https://h/?u=http%3A%2F%2Fme%3Ap%40i%2F&v=http%3A%2F%2Fi",
       "https://h/?u=[redacted]&v=http%3A%2F%2Fi"},
      {"/only/path?secret=s", "/only/path?secret=[redacted]"},
      {"https://h/?next=%2Fp%3Faccess_token%3Dx&a=1", "https://h/?next=[redacted]&a=1"},
      {"https://h/?next=%252Fp%253Faccess_token%253Dx", "https://h/?next=[redacted]"},
      {"https://h/?next=%2Fp%3Fpage%3D2", "https://h/?next=%2Fp%3Fpage%3D2"},
      {"/a;v=1/b;password=x/c", "/a;v=1/b;password=[redacted]"},
      {"/app;jsessionid=x?a=b", "/app;jsessionid=[redacted]?a=b"},
  };
  for (const Case& one : cases) EXPECT_EQ(redact_url(one.in), one.out);
  // Nested without end: cut, not followed.
  std::string escapes = "%";
  for (int i = 0; i < 30; ++i) escapes += "25";
  EXPECT_EQ(redact_url("/?u=" + escapes + "41"), "/?u=[redacted]");
}

TEST(Redaction, Headers) {
  for (const char* name :
       {"Authorization", "proxy-authorization", "Cookie", "SET-COOKIE", "X-Api-Key", "x-auth-token"}) {
    EXPECT_EQ(redact_header(name, "value"), "[redacted]") << name;
  }
  EXPECT_EQ(redact_header("X-Shopify-Access-Token", "value"), "[redacted]");
  EXPECT_EQ(redact_header("Sec-WebSocket-Protocol",
                          "v4.channel.k8s.io,  base64url.bearer.authorization.k8s.io.s, chat"),
            "v4.channel.k8s.io,  [redacted], chat");
  EXPECT_EQ(redact_header("sec-websocket-protocol", "access_token, s"), "access_token, [redacted]");
  EXPECT_EQ(redact_header("sec-websocket-protocol", ""), "");
  EXPECT_EQ(redact_header("Accept", "value"), "value");
  EXPECT_EQ(redact_header("Location", "https://h/?token=t&a=b"), "https://h/?token=[redacted]&a=b");
  EXPECT_EQ(redact_header("X-Original-URL", "/p?token=t"), "/p?token=[redacted]");
  EXPECT_EQ(redact_header("Destination", "https://me:p@h/a"), "https://[redacted]@h/a");
  EXPECT_EQ(redact_header("WWW-Authenticate", "Negotiate"), "Negotiate");
  EXPECT_EQ(redact_header("WWW-Authenticate", "Negotiate YIIxx=="), "Negotiate [redacted]");
  EXPECT_EQ(redact_header("Proxy-Authenticate", "NTLM TlRM"), "NTLM [redacted]");
  EXPECT_EQ(redact_header("WWW-Authenticate", "Basic realm=\"a\""), "Basic realm=\"a\"");
  EXPECT_EQ(redact_header("X-Data", "https://h/?token=t"), "https://h/?token=t");
}

TEST(Redaction, Arguments) {
  const std::pair<Arguments, Arguments> cases[] = {
      {{"curl", "-s", "https://h/a"}, {"curl", "-s", "https://h/a"}},
      {{"x", "--password=p"}, {"x", "--password=[redacted]"}},
      {{"java", "-Dpassword=p", "-Dapi.key=k", "-Da=b"},
       {"java", "-Dpassword=[redacted]", "-Dapi.key=[redacted]", "-Da=b"}},
      {{"curl", "--cert", "me.pem:p", "https://h"}, {"curl", "--cert", "me.pem:[redacted]", "https://h"}},
      {{"sed", "-E", "s/a:b/c/"}, {"sed", "-E", "s/a:b/c/"}},
      {{"x", "--password=a.token:b"}, {"x", "--password=[redacted]"}},
      {{"x", "--token", "t", "rest"}, {"x", "--token", "[redacted]", "rest"}},
      {{"x", "--token", "--verbose"}, {"x", "--token", "--verbose"}},
      {{"curl", "-u", "me:p"}, {"curl", "-u", "me:[redacted]"}},
      {{"curl", "-ume:p"}, {"curl", "-ume:[redacted]"}},
      {{"curl", "--user=me:p"}, {"curl", "--user=me:[redacted]"}},
      {{"python3", "-u", "script.py"}, {"python3", "-u", "script.py"}},
      {{"curl", "-H", "Authorization: Bearer b"}, {"curl", "-H", "Authorization: [redacted]"}},
      {{"curl", "-HX-Api-Key: k"}, {"curl", "-HX-Api-Key: [redacted]"}},
      {{"curl", "--header=Cookie: a=b; c=d"}, {"curl", "--header=Cookie: [redacted]"}},
      {{"curl", "-H", "Accept: text/html"}, {"curl", "-H", "Accept: text/html"}},
      {{"git", "clone", "https://me:p@h/r.git"}, {"git", "clone", "https://[redacted]@h/r.git"}},
      {{"x", "--url=https://me:p@h/"}, {"x", "--url=https://[redacted]@h/"}},
      {{"env", "GITHUB_TOKEN=t", "PATH=/bin", "x"}, {"env", "GITHUB_TOKEN=[redacted]", "PATH=/bin", "x"}},
      {{"docker", "run", "-eAWS_SECRET_ACCESS_KEY=s"},
       {"docker", "run", "-eAWS_SECRET_ACCESS_KEY=[redacted]"}},
      {{"docker", "run", "-e", "PASSWORD=two words", "-e", "NAME=two words", "x"},
       {"docker", "run", "-e", "PASSWORD=[redacted]", "-e", "NAME=two words", "x"}},
      {{"sh", "-c", "docker run -e PASSWORD='two words' -e TOKEN=\"a b\" x"},
       {"sh", "-c", "docker run -e PASSWORD=[redacted] -e TOKEN=[redacted] x"}},
      {{"docker", "run", "--env=PASSWORD=x", "--build-arg=TOKEN=t", "-eNAME=n"},
       {"docker", "run", "--env=PASSWORD=[redacted]", "--build-arg=TOKEN=[redacted]", "-eNAME=n"}},
      {{"helm", "--set=db.password=x", "--from-literal=password=x", "--set", "a=1,db.password=y"},
       {"helm", "--set=db.password=[redacted]", "--from-literal=password=[redacted]", "--set",
        "a=1,db.password=[redacted]"}},
      {{"docker", "run", "-e", "PASSWORD=p&q"}, {"docker", "run", "-e", "PASSWORD=[redacted]"}},
      {{"env", "PASSWORD=two words", "x"}, {"env", "PASSWORD=[redacted]", "x"}},
      {{"sh", "-c", "PASSWORD='p&q' x"}, {"sh", "-c", "PASSWORD=[redacted] x"}},
      {{"sh", "-c", "docker run -e \"PASSWORD=two words\" image"},
       {"sh", "-c", "docker run -e \"PASSWORD=[redacted]\" image"}},
      {{"sh", "-c", "A=1;PASSWORD=b x"}, {"sh", "-c", "A=1;PASSWORD=[redacted] x"}},
      {{"curl", "--user", "--password=p -u:q"}, {"curl", "--user", "--password=[redacted]"}},
      {{"x", "http://me:p@h,http://me:p@i"}, {"x", "http://[redacted]@h,http://[redacted]@i"}},
      {{"java", "-Djavax.net.ssl.trustStorePassword=p"},
       {"java", "-Djavax.net.ssl.trustStorePassword=[redacted]"}},
      {{"curl", "-d", "user=me&password=p"}, {"curl", "-d", "user=me&password=[redacted]"}},
      {{"mysql", "--password", "two words"}, {"mysql", "--password", "[redacted]"}},
      {{"sh", "-c", "curl -u me:p 'https://a:b@h/?q=1' && echo done"},
       {"sh", "-c", "curl -u me:[redacted] 'https://[redacted]@h/?q=1' && echo done"}},
      {{"sh", "-c", "TOKEN=t curl -H 'Authorization: Bearer b' --token x url"},
       {"sh", "-c", "TOKEN=[redacted] curl -H 'Authorization: [redacted]' --token [redacted] url"}},
      {{"sh", "-c", "  spaces  stay "}, {"sh", "-c", "  spaces  stay "}},
      {{""}, {""}},
      {{}, {}},
      {{"curl", "-sSu", "me:p"}, {"curl", "-sSu", "me:[redacted]"}},
      {{"curl", "-sSume:p"}, {"curl", "-sSume:[redacted]"}},
      {{"curl", "-u", "me:p word"}, {"curl", "-u", "me:[redacted]"}},
      {{"curl", "-ume:p word"}, {"curl", "-ume:[redacted]"}},
      {{"x", "--password=two words"}, {"x", "--password=[redacted]"}},
      {{"curl", "-b", "sid=s; x=t"}, {"curl", "-b", "[redacted]"}},
      {{"curl", "-b", "jar.txt"}, {"curl", "-b", "jar.txt"}},
      {{"curl", "-sbsid=s"}, {"curl", "-sb[redacted]"}},
      {{"curl", "--cookie", "x=s"}, {"curl", "--cookie", "[redacted]"}},
      {{"curl", "--cookie=x=s; y=t"}, {"curl", "--cookie=[redacted]"}},
      {{"curl", "-x", "me:p@h:80"}, {"curl", "-x", "me:[redacted]@h:80"}},
      {{"curl", "-xme:p@q@h:80"}, {"curl", "-xme:[redacted]@h:80"}},
      {{"curl", "--proxy=me:p@h:80"}, {"curl", "--proxy=me:[redacted]@h:80"}},
      {{"git", "clone", "git@h:o/r.git"}, {"git", "clone", "git@h:o/r.git"}},
      {{"curl", "-d", R"({"password":"p \" q","user":"me"})"},
       {"curl", "-d", R"({"password":"[redacted]","user":"me"})"}},
      {{"curl", "-d", R"({"user": "me", "apiKey" : "p q", "pass": 12})"},
       {"curl", "-d", R"({"user": "me", "apiKey" : "[redacted]", "pass": [redacted]})"}},
      {{"curl", R"(-d{"a":{"secret":{"x":"p"}},"b":1})"}, {"curl", R"(-d{"a":{"secret":[redacted])"}},
      {{"sh", "-c", R"(curl -d "{\"token\":\"p q\",\"n\":1}" url)"},
       {"sh", "-c", R"(curl -d "{\"token\":\"[redacted]\",\"n\":1}" url)"}},
      {{"curl", "-H", "X-Shopify-Access-Token: s"}, {"curl", "-H", "X-Shopify-Access-Token: [redacted]"}},
      {{"curl", "-H", "Sec-WebSocket-Protocol: chat, bearer.s"},
       {"curl", "-H", "Sec-WebSocket-Protocol: chat, [redacted]"}},
      {{"docker", "pull", "r.test/token-service:1"}, {"docker", "pull", "r.test/token-service:1"}},
      {{"sh", "-c", "curl -sSu 'me:p word' -b \"sid=s; t=u\" -x me:p@h url"},
       {"sh", "-c", "curl -sSu 'me:[redacted]' -b \"[redacted]\" -x me:[redacted]@h url"}},
      {{"sh", "-c", "curl -u me:'p q' --cookie=\"a=s t\" -ume:'r s' url"},
       {"sh", "-c", "curl -u me:[redacted] --cookie=[redacted] -ume:[redacted] url"}},
  };
  for (const auto& [in, out] : cases) EXPECT_EQ(redact_arguments(in), out);
}

}  // namespace
}  // namespace weir
