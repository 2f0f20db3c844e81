// The native tap's scenarios: connections that go straight to their destination, of a curl that is known.
#pragma once

#include <gmock/gmock.h>

#include "tests/unit/attribution/scenario.h"

namespace weir::test {

class Native : public Scenario {
 protected:
  void SetUp() override {
    Scenario::SetUp();
    process(kCurl, "/usr/bin/curl");
  }
};

}  // namespace weir::test
