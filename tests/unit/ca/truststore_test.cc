// The trust stores, judged by the programs that read them: OpenSSL and, where it is installed, Java's
// keytool.
#include "ca/truststore.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <ctime>

#include "ca/certificates.h"
#include "ca/keystore.h"
#include "ca/root_set.h"
#include "tests/unit/ca/support.h"

namespace weir::ca::test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

namespace {

std::string new_root(std::string_view name) {
  const KeyPtr key = new_key();
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  return to_pem(make_root(key.get(), name, now).get());
}

RootSet set_of(const std::vector<std::string>& pems) {
  RootSet set;
  for (const auto& pem : pems) EXPECT_EQ(set.add_pem(pem), 1U);
  return set;
}

std::vector<std::string> ders_of(const RootSet& set) {
  std::vector<std::string> ders;
  for (const Root& root : set.roots()) ders.push_back(root.der);
  return ders;
}

std::size_t count_of(std::string_view text, std::string_view word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

bool has_keytool() {
  return run("command -v keytool").status == 0;
}

std::string keytool_list(const fs::path& store) {
  return run("keytool -J-Duser.language=en -list -storepass changeit -keystore " + store.string() + " 2>&1")
      .text;
}

class TrustStoreTest : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
  std::string root_ = new_root("test");
};

}  // namespace

TEST_F(TrustStoreTest, BundleIsTheSystemsAndOurs) {
  const fs::path file = directory_.path() / "bundle.pem";
  const auto count = write_bundle(file, root_);
  ASSERT_TRUE(count) << count.error().what;
  const std::string bundle = read_file(file);
  EXPECT_EQ(count_of(bundle, "BEGIN CERTIFICATE"), *count);
  EXPECT_EQ(count_of(bundle, root_), 1U);
  EXPECT_EQ(mode_of(file), 0644U);
  RootSet system;
  if (!system_bundle().empty()) system.add_pem(read_file(system_bundle()));
  EXPECT_EQ(*count, system.roots().size() + 1);
  RootSet written;
  written.add_pem(bundle);
  EXPECT_THAT(ders_of(written), IsSupersetOf(ders_of(system)));
}

TEST_F(TrustStoreTest, LeavesAFileAloneThatWouldNotChange) {
  using Writer = std::expected<std::size_t, Error> (*)(const fs::path&, std::string_view);
  for (const Writer writer : {write_bundle, write_pkcs12, write_jks}) {
    const fs::path file = directory_.path() / "store";
    struct stat first{};
    struct stat second{};
    ASSERT_TRUE(writer(file, root_));
    stat(file.c_str(), &first);
    ASSERT_TRUE(writer(file, root_));
    stat(file.c_str(), &second);
    EXPECT_EQ(first.st_ino, second.st_ino);
    EXPECT_EQ(first.st_mtim.tv_nsec, second.st_mtim.tv_nsec);
    chmod(file.c_str(), 0600);
    ASSERT_TRUE(writer(file, root_));
    EXPECT_EQ(mode_of(file), 0644U);
    const std::string before = read_file(file);
    ASSERT_TRUE(writer(file, new_root("other")));
    EXPECT_NE(read_file(file), before);
    fs::remove(file);
  }
}

TEST_F(TrustStoreTest, ReplacesASymbolicLinkInsteadOfWritingThroughIt) {
  const fs::path victim = directory_.path() / "victim";
  const fs::path file = directory_.path() / "bundle.pem";
  write_file(victim, "precious");
  fs::create_symlink(victim, file);
  ASSERT_TRUE(write_bundle(file, root_));
  EXPECT_EQ(read_file(victim), "precious");
  EXPECT_FALSE(fs::is_symlink(file));
}

TEST_F(TrustStoreTest, RefusesWhatIsNoRootAndNamesAnUnwritablePlace) {
  EXPECT_FALSE(write_bundle(directory_.path() / "bundle.pem", "no certificate"));
  const auto result = write_bundle(directory_.path() / "missing" / "bundle.pem", root_);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().what, HasSubstr("missing/bundle.pem: cannot write beside it: No such file"));
}

TEST_F(TrustStoreTest, JavaReadsEveryEntryOfBothFormats) {
  if (!has_keytool()) FAIL() << "no keytool: run scripts/setup";
  const fs::path pkcs12 = directory_.path() / "store.p12";
  const fs::path jks = directory_.path() / "store.jks";
  const auto in_pkcs12 = write_pkcs12(pkcs12, root_);
  const auto in_jks = write_jks(jks, root_);
  ASSERT_TRUE(in_pkcs12 && in_jks);
  EXPECT_EQ(*in_pkcs12, *in_jks);
  for (const fs::path& store : {pkcs12, jks}) {
    const std::string list = keytool_list(store);
    EXPECT_EQ(count_of(list, "trustedCertEntry"), *in_pkcs12) << list.substr(0, 500);
    EXPECT_THAT(list, HasSubstr("Your keystore contains " + std::to_string(*in_pkcs12) + " entries"));
    EXPECT_EQ(count_of(list, "\nweir, "), 1U);
  }
}

TEST_F(TrustStoreTest, WritingThePkcs12IsQuick) {
  ASSERT_TRUE(write_pkcs12(directory_.path() / "warm", root_));
  const std::clock_t begin = std::clock();
  ASSERT_TRUE(write_pkcs12(directory_.path() / "store.p12", root_));
  const std::clock_t taken = std::clock() - begin;
  RecordProperty("milliseconds", static_cast<int>(taken / (CLOCKS_PER_SEC / 1000)));
  // The aim is 100 ms. The margin is for sanitizers; keytool would take half a second for each entry.
  EXPECT_LT(taken, CLOCKS_PER_SEC);
}

TEST_F(TrustStoreTest, WhatKeytoolWritesIsRead) {
  if (!has_keytool()) FAIL() << "no keytool: run scripts/setup";
  const RootSet set = set_of({root_, new_root("second")});
  int number = 0;
  for (const Root& root : set.roots()) {
    write_file(directory_.path() / "one.pem", to_pem(root.certificate.get()));
    for (const char* type : {"JKS", "PKCS12"})
      run("keytool -importcert -noprompt -storetype " + std::string(type) + " -storepass changeit -alias a" +
          std::to_string(number) + " -file " + (directory_.path() / "one.pem").string() + " -keystore " +
          (directory_.path() / type).string() + " 2>&1");
    ++number;
  }
  for (const char* type : {"JKS", "PKCS12"}) {
    const auto certificates = parse_keystore(read_file(directory_.path() / type));
    ASSERT_TRUE(certificates) << type << certificates.error();
    EXPECT_THAT(*certificates, ::testing::UnorderedElementsAreArray(ders_of(set))) << type;
  }
}

TEST_F(TrustStoreTest, BothFormatsRoundTrip) {
  const RootSet set = set_of({root_, new_root("second"), new_root("third")});
  for (const auto encode : {encode_jks, encode_pkcs12}) {
    const auto certificates = parse_keystore(encode(set));
    ASSERT_TRUE(certificates) << certificates.error();
    EXPECT_EQ(*certificates, ders_of(set));
  }
}

TEST_F(TrustStoreTest, EveryDamageToAKeystoreIsRefusedWithoutHarm) {
  const RootSet set = set_of({root_});
  const std::string jks = encode_jks(set);
  const std::string pkcs12 = encode_pkcs12(set);
  for (std::size_t i = 0; i < jks.size(); ++i) {
    std::string damaged = jks;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
    EXPECT_FALSE(parse_keystore(damaged)) << i;
    EXPECT_FALSE(parse_keystore(jks.substr(0, i))) << i;
    EXPECT_FALSE(parse_jks(jks.substr(0, i))) << i;
  }
  for (std::size_t i = 0; i < pkcs12.size(); ++i) EXPECT_FALSE(parse_pkcs12(pkcs12.substr(0, i))) << i;
}

TEST_F(TrustStoreTest, AJksThatPromisesMoreThanItHoldsIsRefused) {
  const std::string jks = encode_jks(set_of({root_}));
  for (const std::size_t counter : {11U, 17U}) {  // the number of entries, the alias's length
    std::string content = jks.substr(0, jks.size() - 20);
    content[counter] = '\x7f';
    std::string keyed;
    for (const char c : truststore_password) keyed += {'\0', c};
    keyed += "Mighty Aphrodite" + content;
    std::array<unsigned char, 20> digest{};
    EVP_Digest(keyed.data(), keyed.size(), digest.data(), nullptr, EVP_sha1(), nullptr);
    EXPECT_FALSE(parse_jks(content.append(digest.begin(), digest.end()))) << counter;
  }
}

TEST_F(TrustStoreTest, APkcs12WithoutTheAttributeHoldsNothingThatJavaWouldTrust) {
  const fs::path pem = directory_.path() / "root.pem";
  write_file(pem, root_);
  const fs::path store = directory_.path() / "bare.p12";
  ASSERT_EQ(run("openssl pkcs12 -export -nokeys -passout pass:changeit -in " + pem.string() + " -out " +
                store.string())
                .status,
            0);
  const auto certificates = parse_keystore(read_file(store));
  ASSERT_TRUE(certificates) << certificates.error();
  EXPECT_TRUE(certificates->empty());
}

TEST_F(TrustStoreTest, AliasesAreDistinctAndPlain) {
  const RootSet set = set_of({new_root("own"), new_root("Host"), new_root("hOST"), new_root("a/b")});
  EXPECT_THAT(aliases_for(set), ElementsAre("weir", "weir ca host", "weir ca host (2)", "weir ca a_b"));
}

class JdkRootsTest : public TrustStoreTest {
 protected:
  JdkRootsTest() {
    fs::create_directories(store_.parent_path());
    if (const char* home = getenv("JAVA_HOME")) before_ = home;
    setenv("JAVA_HOME", directory_.path().c_str(), 1);
  }
  ~JdkRootsTest() override {
    before_.empty() ? unsetenv("JAVA_HOME") : setenv("JAVA_HOME", before_.c_str(), 1);
  }

  bool is_read() const { return std::ranges::count(jdk_roots().read, fs::canonical(store_)) == 1; }

  std::string before_;
  fs::path store_ = directory_.path() / "lib" / "security" / "cacerts";
};

TEST_F(JdkRootsTest, ReadsTheStoreOfJavaHomeOnceAndPassesItsRootsOn) {
  const std::string mine = new_root("of a JDK");
  for (const auto encode : {encode_jks, encode_pkcs12}) {
    write_file(store_, encode(set_of({mine})));
    EXPECT_TRUE(is_read());
    EXPECT_EQ(std::ranges::count(jdk_roots().pem, mine), 1);
  }
  fs::create_directories(directory_.path() / "jre" / "lib" / "security");
  fs::create_symlink(store_, directory_.path() / "jre" / "lib" / "security" / "cacerts");
  EXPECT_TRUE(is_read());
  const auto with = write_jks(directory_.path() / "with", root_);
  fs::remove(store_);
  const auto without = write_jks(directory_.path() / "without", root_);
  ASSERT_TRUE(with && without);
  EXPECT_EQ(*with, *without + 1);
}

TEST_F(JdkRootsTest, NamesTheStoresItPassesOver) {
  write_file(store_, "garbage");
  EXPECT_FALSE(is_read());
  EXPECT_THAT(jdk_roots().skipped, ::testing::Contains(HasSubstr(store_.string() + ": is neither")));

  write_file(store_, encode_jks(set_of({root_})), 0666);
  EXPECT_FALSE(is_read());
  EXPECT_THAT(jdk_roots().skipped, ::testing::Contains(HasSubstr("mode 0666 lets others write it")));

  write_file(store_, "");
  fs::resize_file(store_, 17 * 1024 * 1024);
  chmod(store_.c_str(), 0644);
  EXPECT_THAT(jdk_roots().skipped, ::testing::Contains(HasSubstr("is larger than")));
}

}  // namespace weir::ca::test
