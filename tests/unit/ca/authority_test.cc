// The root's making, keeping and refusing, and the leaves it signs, judged by OpenSSL's own verification.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <openssl/pem.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "ca/certificates.h"
#include "tests/unit/ca/support.h"

namespace weir::ca::test {

using ::testing::HasSubstr;

namespace {

using StorePtr = std::unique_ptr<X509_STORE, Freer<X509_STORE_free>>;
using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, Freer<X509_STORE_CTX_free>>;

class AuthorityTest : public ::testing::Test {
 protected:
  std::unique_ptr<Authority> open() {
    auto authority = Authority::load_or_create(paths_);
    EXPECT_TRUE(authority) << (authority ? "" : authority.error().what);
    return authority ? std::move(*authority) : nullptr;
  }

  // "what | remedy", or empty when it was not refused.
  std::string refusal() {
    auto authority = Authority::load_or_create(paths_);
    return authority ? "" : authority.error().what + " | " + authority.error().remedy;
  }

  std::expected<std::vector<std::uint8_t>, Error> sign(Authority& authority, const std::string& name) {
    return authority.sign({name, point_of(leaf_key_.get())});
  }

  CertificatePtr leaf(Authority& authority, const std::string& name) {
    const auto der = sign(authority, name);
    EXPECT_TRUE(der) << name;
    if (!der) return nullptr;
    const unsigned char* position = der->data();
    return CertificatePtr(d2i_X509(nullptr, &position, static_cast<long>(der->size())));
  }

  TemporaryDirectory directory_;
  Paths paths_{directory_.path() / "state" / "ca"};
  KeyPtr leaf_key_ = new_key();
};

// X509_V_OK, or why a TLS client that trusts `root` would refuse `certificate` for this host or address.
int verify(X509* certificate, X509* root, const char* host, const char* address = nullptr) {
  const StorePtr store(X509_STORE_new());
  X509_STORE_add_cert(store.get(), root);
  const StoreContextPtr context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), certificate, nullptr);
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_SSL_SERVER);
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
  X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  if (host != nullptr) X509_VERIFY_PARAM_set1_host(parameters, host, 0);
  if (address != nullptr) X509_VERIFY_PARAM_set1_ip_asc(parameters, address);
  X509_verify_cert(context.get());
  return X509_STORE_CTX_get_error(context.get());
}

int alternative_names(X509* certificate) {
  auto* names =
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  const int count = sk_GENERAL_NAME_num(names);
  GENERAL_NAMES_free(names);
  return count;
}

bool is_critical(X509* certificate, int nid) {
  return X509_EXTENSION_get_critical(X509_get_ext(certificate, X509_get_ext_by_NID(certificate, nid, -1))) ==
         1;
}

std::chrono::sys_seconds now() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

}  // namespace

TEST_F(AuthorityTest, MakesARootThatCanSignLeavesAndItsSuccessor) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const CertificatePtr root = from_pem(authority->certificate_pem());
  ASSERT_TRUE(root);
  EXPECT_EQ(X509_self_signed(root.get(), 1), 1);
  EXPECT_EQ(X509_check_ca(root.get()), 1);
  EXPECT_EQ(X509_get_pathlen(root.get()), 1);
  EXPECT_EQ(X509_get_key_usage(root.get()), static_cast<unsigned>(KU_KEY_CERT_SIGN | KU_CRL_SIGN));
  EXPECT_TRUE(is_critical(root.get(), NID_basic_constraints));
  EXPECT_TRUE(is_critical(root.get(), NID_key_usage));
  EXPECT_NE(X509_get0_subject_key_id(root.get()), nullptr);
  EXPECT_THAT(authority->subject(), HasSubstr("CN=weir CA "));
  EXPECT_EQ(authority->sha256_fingerprint().size(), 32 * 3 - 1);
  EXPECT_GT(authority->not_after(), now() + std::chrono::days(3650));
  EXPECT_LT(authority->not_after(), now() + std::chrono::days(3660));
}

TEST_F(AuthorityTest, KeepsTheKeyToItselfWhateverTheUmask) {
  const mode_t before = umask(0);
  open();
  umask(0077);
  TemporaryDirectory other;
  EXPECT_TRUE(Authority::load_or_create({other.path() / "ca"}));
  umask(before);
  EXPECT_EQ(mode_of(paths_.key()), 0600U);
  EXPECT_EQ(mode_of(paths_.certificate()), 0644U);
  EXPECT_EQ(mode_of(paths_.directory), 0755U);
  EXPECT_EQ(mode_of(other.path() / "ca"), 0755U);
  EXPECT_EQ(mode_of(other.path() / "ca" / "ca.crt"), 0644U);
}

TEST_F(AuthorityTest, LoadsTheSameRootAgainAndLeavesNothingElseBehind) {
  const auto first = open();
  const auto second = open();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->certificate_pem(), second->certificate_pem());
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(paths_.directory)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"ca.crt", "ca.key", "ca.lock"}));
}

TEST_F(AuthorityTest, LeafIsGoodForItsOneNameAlone) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const CertificatePtr root = from_pem(authority->certificate_pem());
  const CertificatePtr certificate = leaf(*authority, "www.example_1.test");
  ASSERT_TRUE(certificate);
  EXPECT_EQ(verify(certificate.get(), root.get(), "www.example_1.test"), X509_V_OK);
  EXPECT_EQ(verify(certificate.get(), root.get(), "example_1.test"), X509_V_ERR_HOSTNAME_MISMATCH);
  EXPECT_EQ(verify(certificate.get(), certificate.get(), "www.example_1.test"),
            X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
  EXPECT_EQ(alternative_names(certificate.get()), 1);
  EXPECT_EQ(X509_check_ca(certificate.get()), 0);
  EXPECT_EQ(X509_get_key_usage(certificate.get()), static_cast<unsigned>(KU_DIGITAL_SIGNATURE));
  EXPECT_EQ(X509_get_extended_key_usage(certificate.get()), static_cast<unsigned>(XKU_SSL_SERVER));
  EXPECT_EQ(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(certificate.get()),
                                  X509_get0_subject_key_id(root.get())),
            0);
  EXPECT_EQ(EVP_PKEY_eq(X509_get0_pubkey(certificate.get()), leaf_key_.get()), 1);
}

TEST_F(AuthorityTest, LeafIsValidFromYesterdayForNinetyDaysWithinTheRoots) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const auto validity = validity_of(leaf(*authority, "a.test").get());
  const auto roots = validity_of(from_pem(authority->certificate_pem()).get());
  ASSERT_TRUE(validity && roots);
  EXPECT_GE(validity->begin, roots->begin);
  EXPECT_LE(validity->begin, now() - std::chrono::hours(23));
  EXPECT_NEAR((validity->end - now()).count(), std::chrono::seconds(std::chrono::days(90)).count(), 60);
}

TEST_F(AuthorityTest, LeafNeverOutlivesARootThatEndsSoon) {
  const KeyPtr key = new_key();
  ASSERT_TRUE(open());
  const BioPtr pem(BIO_new(BIO_s_mem()));
  PEM_write_bio_PKCS8PrivateKey(pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long size = BIO_get_mem_data(pem.get(), &data);
  write_file(paths_.key(), {data, static_cast<std::size_t>(size)}, 0600);
  write_file(paths_.certificate(),
             to_pem(make_root(key.get(), "soon", now() - std::chrono::days(3653 - 10)).get()));
  const auto authority = open();
  ASSERT_TRUE(authority);
  EXPECT_EQ(validity_of(leaf(*authority, "a.test").get())->end, authority->not_after());

  write_file(paths_.certificate(),
             to_pem(make_root(key.get(), "late", now() - std::chrono::days(3654)).get()));
  EXPECT_THAT(refusal(), HasSubstr("ca.crt: has expired | run: weir ca rotate"));
}

TEST_F(AuthorityTest, AddressesGoIntoAnAddressEntry) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const CertificatePtr root = from_pem(authority->certificate_pem());
  for (const char* address : {"192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"}) {
    const CertificatePtr certificate = leaf(*authority, address);
    ASSERT_TRUE(certificate);
    EXPECT_EQ(verify(certificate.get(), root.get(), nullptr, address), X509_V_OK) << address;
    EXPECT_EQ(verify(certificate.get(), root.get(), nullptr, "192.0.2.8"), X509_V_ERR_IP_ADDRESS_MISMATCH);
    EXPECT_EQ(alternative_names(certificate.get()), 1);
  }
}

TEST_F(AuthorityTest, ANameTooLongForTheSubjectStandsInTheCriticalAlternativeName) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const std::string label(63, 'a');
  const std::string longest = label + "." + label + "." + label + "." + std::string(61, 'b');
  ASSERT_EQ(longest.size(), 253U);
  const CertificatePtr certificate = leaf(*authority, longest);
  ASSERT_TRUE(certificate);
  const CertificatePtr root = from_pem(authority->certificate_pem());
  EXPECT_EQ(verify(certificate.get(), root.get(), longest.c_str()), X509_V_OK);
  EXPECT_EQ(X509_NAME_entry_count(X509_get_subject_name(certificate.get())), 0);
  EXPECT_TRUE(is_critical(certificate.get(), NID_subject_alt_name));
  EXPECT_FALSE(is_critical(leaf(*authority, "short.test").get(), NID_subject_alt_name));
}

TEST_F(AuthorityTest, RefusesEveryOtherName) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const std::vector<std::string> names = {"",
                                          ".",
                                          "a..b",
                                          ".a",
                                          "a.",
                                          "*.x",
                                          "*",
                                          "A.test",
                                          "a b",
                                          "a,DNS:b.test",
                                          "a\nb",
                                          "a/b",
                                          "a:443",
                                          "[::1]",
                                          "::1%eth0",
                                          "1.2.3",
                                          "1.2.3.256",
                                          "01234",
                                          "b\xc3\xbc"
                                          "cher.test",
                                          std::string("evil\0", 5),
                                          std::string("1.2.3.4\0.test", 13),
                                          std::string("::1\0", 4),
                                          std::string(300, 'a'),
                                          std::string(64, 'a') + ".test",
                                          std::string(63, 'a') + "." + std::string(63, 'a') + "." +
                                              std::string(63, 'a') + "." + std::string(62, 'b')};
  for (const std::string& name : names) EXPECT_FALSE(sign(*authority, name)) << name;
}

TEST_F(AuthorityTest, RefusesAKeyThatIsNoPointOfTheCurveOrItsOwn) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const PublicPoint good = point_of(leaf_key_.get());
  PublicPoint off_curve = good;
  off_curve[64] ^= 1;
  PublicPoint compressed = good;
  compressed[0] = 0x02;
  PublicPoint hybrid = good;
  hybrid[0] = good[64] % 2 == 0 ? 0x06 : 0x07;
  for (const PublicPoint& point : {off_curve, compressed, hybrid, PublicPoint{}})
    EXPECT_FALSE(authority->sign({"a.test", point}));
  EXPECT_TRUE(authority->sign({"a.test", good}));
  const CertificatePtr root = from_pem(authority->certificate_pem());
  EXPECT_FALSE(authority->sign({"a.test", point_of(X509_get0_pubkey(root.get()))}));
}

TEST_F(AuthorityTest, SignsFromManyThreadsWithDistinctSerials) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  const CertificatePtr root = from_pem(authority->certificate_pem());
  std::vector<std::vector<CertificatePtr>> leaves(4);
  {
    std::vector<std::jthread> threads;
    for (auto& own : leaves)
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i) own.push_back(leaf(*authority, "a" + std::to_string(i) + ".test"));
      });
  }
  std::set<std::string> serials;
  for (const auto& own : leaves)
    for (const auto& certificate : own) {
      EXPECT_EQ(verify(certificate.get(), root.get(), nullptr), X509_V_OK);
      const ASN1_INTEGER* serial = X509_get0_serialNumber(certificate.get());
      EXPECT_LE(serial->length, 20);
      EXPECT_EQ(serial->type, V_ASN1_INTEGER);
      serials.emplace(reinterpret_cast<const char*>(serial->data), static_cast<std::size_t>(serial->length));
    }
  EXPECT_EQ(serials.size(), 200U);
}

TEST_F(AuthorityTest, ManyProcessesAndThreadsAtOnceGetOneRoot) {
  std::array<int, 2> start{};
  ASSERT_EQ(pipe2(start.data(), O_CLOEXEC), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(start[1]);
      char byte = 0;
      const bool waited = read(start[0], &byte, 1) == 0;  // ends when the parent closes its side
      const auto authority = Authority::load_or_create(paths_);
      if (waited && authority)
        write_file(directory_.path() / std::to_string(getpid()), (*authority)->certificate_pem());
      _exit(0);
    }
    children.push_back(child);
  }
  close(start[0]);
  close(start[1]);
  std::array<std::string, 2> seen;
  {
    std::vector<std::jthread> threads;
    for (auto& pem : seen) threads.emplace_back([&] { pem = open()->certificate_pem(); });
  }
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  const std::string expected = read_file(paths_.certificate());
  for (const auto& pem : seen) EXPECT_EQ(pem, expected);
  for (const pid_t child : children)
    EXPECT_EQ(read_file(directory_.path() / std::to_string(child)), expected) << child;
}

TEST_F(AuthorityTest, RefusesLooseModesAndRepairsNothing) {
  ASSERT_TRUE(open());
  chmod(paths_.key().c_str(), 0644);
  EXPECT_THAT(refusal(),
              HasSubstr(paths_.key().string() + ": mode 0644 lets others read it | run: chmod 600 " +
                        paths_.key().string()));
  EXPECT_EQ(mode_of(paths_.key()), 0644U);
  chmod(paths_.key().c_str(), 0620);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: mode 0620 lets others write it"));
  chmod(paths_.key().c_str(), 0400);
  EXPECT_EQ(refusal(), "");
  chmod(paths_.certificate().c_str(), 0666);
  EXPECT_THAT(refusal(), HasSubstr("ca.crt: mode 0666 lets others write it | run: chmod 644 "));
  chmod(paths_.certificate().c_str(), 0644);
  chmod(paths_.directory.c_str(), 0777);
  EXPECT_THAT(refusal(), HasSubstr("mode 0777 lets others write it | run: chmod 755 "));
}

TEST_F(AuthorityTest, RefusesFilesOfAnotherOwner) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_TRUE(open());
  ASSERT_EQ(chown(paths_.key().c_str(), 65534, 65534), 0);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: belongs to user 65534, not to 0 | run this as that user"));
  ASSERT_EQ(chown(paths_.key().c_str(), 0, 0), 0);
  ASSERT_EQ(chown(paths_.directory.c_str(), 65534, 65534), 0);
  EXPECT_THAT(refusal(), HasSubstr("belongs to user 65534"));
}

// What its certificate says is for all who may read that.
TEST_F(AuthorityTest, IsDescribedWithoutItsKey) {
  const auto authority = open();
  ASSERT_TRUE(authority);
  fs::remove(paths_.key());
  if (geteuid() == 0) {
    ASSERT_EQ(chown(paths_.certificate().c_str(), 65534, 65534), 0);
  }
  const auto described = describe_root(paths_);
  ASSERT_TRUE(described) << described.error().what;
  EXPECT_EQ(described->subject, authority->subject());
  EXPECT_EQ(described->sha256_fingerprint, authority->sha256_fingerprint());
  EXPECT_EQ(described->not_after, authority->not_after());
  EXPECT_FALSE(described->in_overlap);
  EXPECT_FALSE(fs::exists(paths_.key()));
  fs::remove(paths_.certificate());
  EXPECT_FALSE(describe_root(paths_));
}

TEST_F(AuthorityTest, RefusesSymbolicLinks) {
  ASSERT_TRUE(open());
  const fs::path elsewhere = directory_.path() / "elsewhere";
  for (const fs::path& file : {paths_.key(), paths_.certificate()}) {
    fs::rename(file, elsewhere);
    fs::create_symlink(elsewhere, file);
    EXPECT_THAT(refusal(), HasSubstr(file.string() + ": is a symbolic link"));
    fs::remove(file);
    fs::create_symlink(directory_.path() / "nowhere", file);
    EXPECT_THAT(refusal(), HasSubstr(file.string() + ": is a symbolic link"));
    fs::remove(file);
    fs::rename(elsewhere, file);
  }
  EXPECT_EQ(refusal(), "");
  fs::rename(paths_.directory, elsewhere);
  fs::create_directory_symlink(elsewhere, paths_.directory);
  EXPECT_THAT(refusal(), HasSubstr(paths_.directory.string() + ": is a symbolic link"));
}

TEST_F(AuthorityTest, RefusesAFifoInTheKeysPlaceWithoutHanging) {
  ASSERT_TRUE(open());
  fs::remove(paths_.key());
  ASSERT_EQ(mkfifo(paths_.key().c_str(), 0600), 0);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: is not a regular file"));
}

TEST_F(AuthorityTest, RefusesDamagedAndForeignFiles) {
  ASSERT_TRUE(open());
  const std::string key = read_file(paths_.key());
  const std::string certificate = read_file(paths_.certificate());

  write_file(paths_.key(), key.substr(0, key.size() / 2), 0600);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: not a private key in PEM form"));
  write_file(paths_.key(), std::string(20000, 'x'), 0600);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: is larger than"));

  TemporaryDirectory other;
  ASSERT_TRUE(Authority::load_or_create({other.path() / "ca"}));
  write_file(paths_.key(), read_file(other.path() / "ca" / "ca.key"), 0600);
  EXPECT_THAT(refusal(), HasSubstr("ca.crt: does not belong to the key"));
  write_file(paths_.key(), key, 0600);

  for (const char* program :
       {"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "genpkey -algorithm ED25519"}) {
    write_file(paths_.key(), run("openssl " + std::string(program)).text, 0600);
    EXPECT_THAT(refusal(), HasSubstr("ca.key: not a sound P-256 key")) << program;
  }
  write_file(
      paths_.key(),
      run("openssl pkcs8 -topk8 -passout pass:secret -in " + (other.path() / "ca/ca.key").string()).text,
      0600);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: not a private key in PEM form"));
  write_file(paths_.key(), key, 0600);

  write_file(paths_.certificate(), "nothing");
  EXPECT_THAT(refusal(), HasSubstr("ca.crt: not a certificate in PEM form"));
  std::string der = to_der(from_pem(certificate).get());
  der.back() = static_cast<char>(der.back() ^ 1);
  const auto* position = reinterpret_cast<const unsigned char*>(der.data());
  const CertificatePtr tampered(d2i_X509(nullptr, &position, static_cast<long>(der.size())));
  ASSERT_TRUE(tampered);
  write_file(paths_.certificate(), to_pem(tampered.get()));
  EXPECT_THAT(refusal(), HasSubstr("ca.crt: its signature is wrong | run: weir ca rotate"));
  write_file(paths_.certificate(), certificate);
  EXPECT_EQ(refusal(), "");
}

TEST_F(AuthorityTest, RefusesAKeyWhoseSecretIsNotThePublicPointsOwn) {
  ASSERT_TRUE(open());
  const std::string key = read_file(paths_.key());
  const BioPtr in = read_only_bio(key);
  char* name = nullptr;
  char* header = nullptr;
  unsigned char* der = nullptr;
  long size = 0;
  ASSERT_EQ(PEM_read_bio(in.get(), &name, &header, &der, &size), 1);
  der[50] ^= 1;  // in the middle of the scalar: PKCS#8 has it at 36 to 67, the point after that
  const BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio(out.get(), name, header, der, size);
  OPENSSL_free(name);
  OPENSSL_free(header);
  OPENSSL_free(der);
  char* pem = nullptr;
  const long length = BIO_get_mem_data(out.get(), &pem);
  write_file(paths_.key(), {pem, static_cast<std::size_t>(length)}, 0600);
  EXPECT_THAT(refusal(), HasSubstr("ca.key: not a sound P-256 key"));
}

TEST_F(AuthorityTest, CompletesAKeyWithoutACertificateButNotTheOtherWayRound) {
  ASSERT_TRUE(open());
  const std::string key = read_file(paths_.key());
  fs::remove(paths_.certificate());
  ASSERT_TRUE(open());
  EXPECT_EQ(read_file(paths_.key()), key);
  fs::remove(paths_.key());
  EXPECT_THAT(refusal(), HasSubstr("ca.key: is missing, though its certificate ca.crt is there"));
  EXPECT_FALSE(fs::exists(paths_.key()));
}

TEST_F(AuthorityTest, SaysWhatIsWrongWithADirectoryThatCannotBeMade) {
  write_file(directory_.path() / "state", "a file");
  EXPECT_THAT(refusal(), HasSubstr(paths_.directory.string()));
}

}  // namespace weir::ca::test
