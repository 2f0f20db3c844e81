// Writes HTTP/2 frames for tests: header blocks by nghttp2's deflater, all else by hand.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/h2_frames.h"

namespace weir::http::test {

inline std::string big_endian(std::uint32_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

inline std::string frame(FrameType type, std::uint8_t flags, std::uint32_t stream,
                         std::string_view payload = {}) {
  return big_endian(static_cast<std::uint32_t>(payload.size()), 3) + static_cast<char>(type) +
         static_cast<char>(flags) + big_endian(stream, 4) + std::string(payload);
}

constexpr std::uint8_t kEndStream = 0x1;
constexpr std::uint8_t kEndHeaders = 0x4;
constexpr std::uint8_t kPadded = 0x8;
constexpr std::uint8_t kPriority = 0x20;

inline std::string settings(std::string_view payload = {}) {
  return frame(FrameType::settings, 0, 0, payload);
}
inline std::string data(std::uint32_t stream, std::string_view content, std::uint8_t flags = 0) {
  return frame(FrameType::data, flags, stream, content);
}
inline std::string last_data(std::uint32_t stream, std::string_view content) {
  return data(stream, content, kEndStream);
}
inline std::string rst(std::uint32_t stream, std::uint32_t code) {
  return frame(FrameType::rst_stream, 0, stream, big_endian(code, 4));
}
inline std::string goaway(std::uint32_t last) {
  return frame(FrameType::goaway, 0, 0, big_endian(last, 4) + big_endian(0, 4) + "bye");
}

// One direction's header compression.
class Deflater {
 public:
  using Fields = std::vector<std::pair<std::string_view, std::string_view>>;

  explicit Deflater(std::size_t table = 4096) {
    nghttp2_hd_deflater* made = nullptr;
    nghttp2_hd_deflate_new(&made, table);
    deflater_.reset(made);
  }
  void resize(std::size_t table) { nghttp2_hd_deflate_change_table_size(deflater_.get(), table); }

  std::string block(const Fields& fields) {
    std::vector<nghttp2_nv> list;
    for (const auto& [name, value] : fields)
      list.push_back({raw(name), raw(value), name.size(), value.size(), 0});
    std::string out(nghttp2_hd_deflate_bound(deflater_.get(), list.data(), list.size()), '\0');
    const auto size = nghttp2_hd_deflate_hd(deflater_.get(), raw(out), out.size(), list.data(), list.size());
    out.resize(static_cast<std::size_t>(size));
    return out;
  }
  std::string headers(std::uint32_t stream, const Fields& fields, std::uint8_t flags = 0) {
    return frame(FrameType::headers, flags | kEndHeaders, stream, block(fields));
  }
  // The block in pieces of so many bytes.
  std::string continued(std::uint32_t stream, const Fields& fields, std::size_t piece,
                        std::uint8_t flags = 0) {
    const auto text = block(fields);
    std::string out;
    for (std::size_t at = 0; at < text.size() || at == 0; at += piece) {
      const bool last = at + piece >= text.size();
      out += frame(at == 0 ? FrameType::headers : FrameType::continuation,
                   (at == 0 ? flags : 0) | (last ? kEndHeaders : 0), stream, text.substr(at, piece));
    }
    return out;
  }

 private:
  struct Free {
    void operator()(nghttp2_hd_deflater* one) const { nghttp2_hd_deflate_del(one); }
  };
  static std::uint8_t* raw(std::string_view text) {
    return const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(text.data()));
  }
  std::unique_ptr<nghttp2_hd_deflater, Free> deflater_;
};

// A conversation's two directions, as one writes it.
class Client : public Deflater {
 public:
  using Deflater::Deflater;
  std::string open() const { return std::string(kH2Preface) + settings(); }
  std::string get(std::uint32_t stream, std::string_view path) {
    return headers(stream, request("GET", path), kEndStream);
  }
  // Its body is still to come.
  std::string post(std::uint32_t stream, std::string_view path) {
    return headers(stream, request("POST", path));
  }
  static Fields request(std::string_view method, std::string_view path) {
    return {{":method", method},
            {":scheme", "https"},
            {":authority", "a.test"},
            {":path", path},
            {"user-agent", "t"}};
  }
};

class Server : public Deflater {
 public:
  using Deflater::Deflater;
  std::string open() const { return settings(); }
  std::string head(std::uint32_t stream, std::string_view status, std::uint8_t flags = 0) {
    return headers(stream, {{":status", status}, {"server", "s"}}, flags);
  }
  std::string ok(std::uint32_t stream, std::string_view body) {
    return head(stream, "200") + last_data(stream, body);
  }
};

}  // namespace weir::http::test
