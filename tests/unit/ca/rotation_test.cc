// Replacing the root: who trusts the old one, the new one or both verifies what is sent, at each moment; and
// a rotation that was cut short is either undone or completed.
#include "ca/rotation.h"

#include <gmock/gmock.h>

#include <set>

#include "ca/certificates.h"
#include "ca/keystore.h"
#include "ca/truststore.h"
#include "tests/unit/ca/support.h"

namespace weir::ca::test {

using namespace std::chrono_literals;

using ::testing::HasSubstr;

namespace {

using StorePtr = std::unique_ptr<X509_STORE, Freer<X509_STORE_free>>;
using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, Freer<X509_STORE_CTX_free>>;

struct ChainFreer {
  void operator()(STACK_OF(X509) * chain) const { sk_X509_pop_free(chain, X509_free); }
};
using ChainPtr = std::unique_ptr<STACK_OF(X509), ChainFreer>;

const auto trusting_nothing = [](std::string_view) -> std::expected<void, Error> { return {}; };

class RotationTest : public ::testing::Test {
 protected:
  std::unique_ptr<Authority> open() {
    auto authority = Authority::load_or_create(paths_);
    EXPECT_TRUE(authority) << (authority ? "" : authority.error().what);
    return authority ? std::move(*authority) : nullptr;
  }

  void begin() {
    const auto begun = begin_rotation(paths_, {}, trusting_nothing);
    ASSERT_TRUE(begun) << begun.error().what;
  }

  void finish() {
    const auto finished = finish_rotation(paths_);
    ASSERT_TRUE(finished) << finished.error().what;
  }

  std::string refusal(const RotationOptions& options = {}) {
    const auto begun = begin_rotation(paths_, options, trusting_nothing);
    return begun ? "" : begun.error().what + " | " + begun.error().remedy;
  }

  // X509_V_OK, or why a client that trusts just these roots would refuse what the CA now gives to be sent.
  int verify(const std::string& roots_pem) {
    const auto der = open()->sign({"localhost", point_of(leaf_key_.get())});
    if (!der) return -1;
    const unsigned char* position = der->data();
    const unsigned char* end = position + der->size();
    const CertificatePtr leaf(d2i_X509(nullptr, &position, end - position));
    const ChainPtr sent(sk_X509_new_null());
    sk_X509_push(sent.get(), d2i_X509(nullptr, &position, end - position));
    EXPECT_EQ(position, end);
    const StorePtr store(X509_STORE_new());
    RootSet roots;
    roots.add_pem(roots_pem);
    for (const Root& root : roots.roots()) X509_STORE_add_cert(store.get(), root.certificate.get());
    const StoreContextPtr context(X509_STORE_CTX_new());
    X509_STORE_CTX_init(context.get(), store.get(), leaf.get(), sent.get());
    X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
    X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_SSL_SERVER);
    X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
    X509_VERIFY_PARAM_set1_host(parameters, "localhost", 0);
    X509_verify_cert(context.get());
    return X509_STORE_CTX_get_error(context.get());
  }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(paths_.directory)) names.insert(entry.path().filename());
    return names;
  }

  TemporaryDirectory directory_;
  Paths paths_{directory_.path() / "ca"};
  KeyPtr leaf_key_ = new_key();
};

const std::set<std::string> at_rest = {"ca.crt", "ca.key", "ca.lock"};
const std::set<std::string> in_overlap = {"ca.cross.crt", "ca.crt", "ca.key", "ca.lock"};

}  // namespace

TEST_F(RotationTest, WhoTrustsEitherRootVerifiesUntilItIsFinished) {
  const std::string old_root = open()->certificate_pem();
  begin();
  const std::string new_root = open()->certificate_pem();
  EXPECT_NE(new_root, old_root);
  EXPECT_TRUE(open()->in_overlap());
  EXPECT_EQ(verify(old_root), X509_V_OK);
  EXPECT_EQ(verify(new_root), X509_V_OK);
  EXPECT_EQ(verify(new_root + old_root), X509_V_OK);
  EXPECT_EQ(verify(old_root + new_root), X509_V_OK);
  EXPECT_EQ(files(), in_overlap);

  finish();
  EXPECT_FALSE(open()->in_overlap());
  EXPECT_EQ(open()->certificate_pem(), new_root);
  EXPECT_NE(verify(old_root), X509_V_OK);
  EXPECT_EQ(verify(new_root), X509_V_OK);
  EXPECT_EQ(files(), at_rest);
}

TEST_F(RotationTest, TheCertificatesFileHoldsBothRootsInTheOverlapTheNewOneFirst) {
  const std::string old_root = open()->certificate_pem();
  std::string trusted;
  ASSERT_TRUE(begin_rotation(paths_, {}, [&](std::string_view roots) -> std::expected<void, Error> {
    trusted = roots;
    EXPECT_EQ(read_file(paths_.certificate()), old_root);  // trusted before it is used
    return {};
  }));
  EXPECT_EQ(read_file(paths_.certificate()), trusted);
  EXPECT_EQ(trusted, open()->certificate_pem() + old_root);
  EXPECT_EQ(open()->roots_pem(), trusted);
  finish();
  EXPECT_EQ(read_file(paths_.certificate()), open()->certificate_pem());
}

TEST_F(RotationTest, TheFormerKeyIsGoneAtOnce) {
  open();
  const std::string old_key = read_file(paths_.key());
  begin();
  EXPECT_NE(read_file(paths_.key()), old_key);
  EXPECT_EQ(mode_of(paths_.key()), 0600U);
  EXPECT_EQ(mode_of(paths_.certificate()), 0644U);
  EXPECT_EQ(mode_of(paths_.cross()), 0644U);
}

TEST_F(RotationTest, ItCanBeDoneAgainAndAgain) {
  for (int i = 0; i < 3; ++i) {
    const std::string before = open()->certificate_pem();
    begin();
    EXPECT_EQ(verify(before), X509_V_OK) << i;
    finish();
  }
}

TEST_F(RotationTest, NotTwiceAtOnceAndNotFinishedTwice) {
  EXPECT_THAT(refusal(), HasSubstr("weir ca init"));
  open();
  const auto nothing = finish_rotation(paths_);
  ASSERT_FALSE(nothing);
  EXPECT_THAT(nothing.error().what, HasSubstr("no rotation is under way"));
  begin();
  const std::string before = read_file(paths_.certificate());
  EXPECT_THAT(refusal(), HasSubstr("--finish"));
  EXPECT_EQ(read_file(paths_.certificate()), before);
  EXPECT_EQ(files(), in_overlap);
}

TEST_F(RotationTest, WhatCouldNotBeTrustedIsNotUsed) {
  const std::string before = open()->certificate_pem();
  const auto begun = begin_rotation(paths_, {}, [](std::string_view) -> std::expected<void, Error> {
    return std::unexpected(Error{"the disk is full", ""});
  });
  ASSERT_FALSE(begun);
  EXPECT_EQ(open()->roots_pem(), before);
  begin();  // what the first left behind is in nobody's way
  EXPECT_EQ(files(), in_overlap);
}

TEST_F(RotationTest, OneThatWasCutShortAfterTheSwitchIsCompleted) {
  const std::string old_root = open()->certificate_pem();
  begin();
  const std::string key = read_file(paths_.key());
  const std::string roots = read_file(paths_.certificate());
  // As a crash leaves it that came when all, none or some of the files were in their places.
  for (const char* missing : {"", "ca.key ca.crt", "ca.crt"}) {
    fs::create_directory(paths_.next());
    for (const char* name : {"ca.key", "ca.crt"}) {
      if (std::string_view(missing).find(name) == std::string_view::npos) continue;
      fs::rename(paths_.directory / name, paths_.next() / name);
      write_file(paths_.directory / name, "of before");
    }
    EXPECT_EQ(verify(old_root), X509_V_OK) << missing;
    EXPECT_EQ(read_file(paths_.key()), key);
    EXPECT_EQ(read_file(paths_.certificate()), roots);
    EXPECT_EQ(files(), in_overlap);
  }
}

TEST_F(RotationTest, ARootThatCantSignIsReplacedWhenTold) {
  const std::string old_root = open()->certificate_pem();
  fs::remove(paths_.key());
  EXPECT_THAT(refusal(), HasSubstr("weir ca rotate --without-overlap"));
  EXPECT_EQ(refusal({.without_overlap = true}), "");
  const auto authority = open();
  EXPECT_FALSE(authority->in_overlap());
  EXPECT_NE(authority->certificate_pem(), old_root);
  EXPECT_EQ(verify(authority->certificate_pem()), X509_V_OK);
  EXPECT_EQ(files(), at_rest);
}

TEST_F(RotationTest, ACrossCertificateThatDoesNotLinkTheRootsIsRefusedUntilTheEnd) {
  open();
  begin();
  fs::copy_file(paths_.certificate(), paths_.cross(), fs::copy_options::overwrite_existing);
  const auto authority = Authority::load_or_create(paths_);
  ASSERT_FALSE(authority);
  EXPECT_THAT(authority.error().remedy, HasSubstr("--finish"));
  finish();
  EXPECT_FALSE(open()->in_overlap());
}

TEST_F(RotationTest, StoresTakeBothRoots) {
  open();
  begin();
  const std::string roots = open()->roots_pem();
  const auto with = [&](std::string_view store) {
    const auto merged = with_roots(store, roots);
    EXPECT_TRUE(merged) << (merged ? "" : merged.error());
    RootSet set;
    if (merged->find("BEGIN") != std::string::npos) {
      set.add_pem(*merged);
    } else {
      const auto certificates = parse_keystore(*merged);
      for (const std::string& der : certificates.value_or(std::vector<std::string>())) set.add_der(der);
    }
    return set.roots().size();
  };
  const CertificatePtr other = make_root(new_key().get(), "other", std::chrono::sys_seconds(1s));
  RootSet one;
  one.add_der(to_der(other.get()));
  const std::string text = "# a comment\n" + to_pem(other.get());
  EXPECT_EQ(with(text), 3U);
  EXPECT_EQ(*with_roots(text, roots), text + roots);
  EXPECT_EQ(*with_roots(text.substr(0, text.size() - 1), roots), text + roots);
  EXPECT_EQ(with(encode_jks(one)), 3U);
  EXPECT_TRUE(is_jks(*with_roots(encode_jks(one), roots)));
  EXPECT_EQ(with(encode_pkcs12(one)), 3U);
  EXPECT_FALSE(is_jks(*with_roots(encode_pkcs12(one), roots)));
  EXPECT_FALSE(with_roots("neither of them", roots));
  EXPECT_FALSE(with_roots("", roots));
}

}  // namespace weir::ca::test
