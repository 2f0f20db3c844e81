// The steps of a rotation. All new files are made in a directory beside the old ones; its renaming to next/
// is the moment of the switch, and settle() does the rest, now or after a crash.
#include "ca/rotation.h"

#include <openssl/rand.h>

#include <array>
#include <system_error>

#include "ca/files.h"
#include "ca/root_files.h"

namespace weir::ca {

namespace fs = std::filesystem;

namespace {

// Two roots of one name would make clients that choose by name try the wrong one.
std::string random_distinction() {
  std::array<unsigned char, 4> bytes{};
  RAND_bytes(bytes.data(), bytes.size());
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string text;
  for (const unsigned char byte : bytes) text += {hex[byte >> 4], hex[byte & 15]};
  return text;
}

std::unexpected<Error> openssl_failed(const fs::path& file) {
  return refuse(file.string() + ": cannot make it (" + take_openssl_error() + ")", {});
}

std::unexpected<Error> nothing_in(const fs::path& directory) {
  return refuse("no certificate authority in " + directory.string(), "make one with `weir ca init`");
}

std::expected<Roots, Error> usable_former(const Paths& paths, const RotationOptions& options) {
  auto former = load_roots(paths);
  if (!former) {
    if (options.without_overlap) return Roots{};
    return refuse(former.error().what,
                  "mend it, or start programs anew after: weir ca rotate --without-overlap");
  }
  if (former->former)
    return refuse(paths.directory.string() + ": a rotation is under way",
                  "once no program from before it runs: weir ca rotate --finish");
  if (X509_get_pathlen(former->root.get()) > 0 || options.without_overlap) return former;
  return refuse(
      paths.certificate().string() + ": was made by an earlier version and can't sign the next root",
      "start programs anew after: weir ca rotate --without-overlap");
}

// Everything but what `settle` does.
std::expected<void, Error> prepare(const Paths& made, const Roots& former,
                                   const std::function<std::expected<void, Error>(std::string_view)>& trust) {
  auto key = create_key(made.key());
  if (!key) return std::unexpected(key.error());
  const CertificatePtr root = make_root(key->get(), host_name(), current_time(), random_distinction());
  if (!root) return openssl_failed(made.certificate());
  std::string roots = to_pem(root.get());
  if (former.root && X509_get_pathlen(former.root.get()) > 0) {
    const CertificatePtr cross = make_cross(root.get(), former.root.get(), former.key.get(), current_time());
    if (!cross) return openssl_failed(made.cross());
    if (auto done = publish(made.cross(), to_pem(cross.get()), 0644, Existing::keep); !done) return done;
    roots += to_pem(former.root.get());
  }
  if (auto done = publish(made.certificate(), roots, 0644, Existing::keep); !done) return done;
  return trust(roots);
}

}  // namespace

std::expected<void, Error> begin_rotation(
    const Paths& paths, const RotationOptions& options,
    const std::function<std::expected<void, Error>(std::string_view roots_pem)>& trust) {
  if (!is_present(paths.directory)) return nothing_in(paths.directory);
  if (auto ready = prepare_directory(paths.directory); !ready) return ready;
  const auto lock = lock_directory(paths.directory);
  if (!lock) return std::unexpected(lock.error());
  if (auto settled = settle(paths); !settled) return settled;
  if (!is_present(paths.certificate()) && !is_present(paths.key())) return nothing_in(paths.directory);
  const auto former = usable_former(paths, options);
  if (!former) return std::unexpected(former.error());

  const Paths made{paths.directory / "next.new"};
  std::error_code failed;
  fs::remove_all(made.directory, failed);  // of a rotation that was cut short
  if (auto ready = prepare_directory(made.directory); !ready) return ready;
  if (auto done = prepare(made, *former, trust); !done) return done;
  if (!is_present(made.cross())) fs::remove(paths.cross(), failed);  // it would not belong to the new root
  fs::rename(made.directory, paths.next(), failed);
  if (failed) return refuse(paths.next().string() + ": " + failed.message(), "check the directory's owner");
  return settle(paths);
}

std::expected<void, Error> finish_rotation(const Paths& paths) {
  if (!is_present(paths.directory)) return nothing_in(paths.directory);
  const auto lock = lock_directory(paths.directory);
  if (!lock) return std::unexpected(lock.error());
  if (auto settled = settle(paths); !settled) return settled;
  // A cross certificate that is damaged is no reason to keep it.
  std::error_code failed;
  if (auto roots = load_roots(paths); roots && !roots->former)
    return refuse(paths.directory.string() + ": no rotation is under way", "begin one with `weir ca rotate`");
  fs::remove(paths.cross(), failed);
  if (failed) return refuse(paths.cross().string() + ": " + failed.message(), "remove it");
  const auto roots = load_roots(paths);
  if (!roots) return std::unexpected(roots.error());
  return publish(paths.certificate(), to_pem(roots->root.get()), 0644, Existing::replace);
}

}  // namespace weir::ca
