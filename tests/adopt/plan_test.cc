// What becomes of a file before the script starts: every situation there is.
#include "adopt/plan.h"

#include <gtest/gtest.h>

#include <vector>

namespace pawl::adopt {
namespace {

TEST(Plan, OfEverySituation) {
    struct Row {
        Content content;
        bool has_version;
        bool is_newer;
        Measure measure;
    };
    const std::vector<Row> rows = {
        {Content::kAbsent, false, false, Measure::kLeave},
        {Content::kAbsent, true, false, Measure::kPutBack},
        {Content::kTorn, false, false, Measure::kSetAside},
        {Content::kTorn, false, true, Measure::kSetAside},
        {Content::kTorn, true, false, Measure::kReplace},
        {Content::kTorn, true, true, Measure::kReplace},
        {Content::kForeign, false, true, Measure::kLeave},
        {Content::kForeign, true, false, Measure::kLeave},
        {Content::kNewest, true, true, Measure::kLeave},
        {Content::kEmpty, false, true, Measure::kLeave},
        {Content::kOlder, false, false, Measure::kLeave},
        {Content::kOlder, true, false, Measure::kReplace},
        // Somebody brought it back and touched it.
        {Content::kOlder, true, true, Measure::kAdopt},
        {Content::kOlder, false, true, Measure::kAdopt},
        {Content::kRolledBack, true, false, Measure::kReplace},
        {Content::kRolledBack, false, false, Measure::kSetAside},
        {Content::kRolledBack, true, true, Measure::kAdopt},
        {Content::kRolledBack, false, true, Measure::kAdopt},
        {Content::kUnknown, false, true, Measure::kAdopt},
        {Content::kUnknown, true, true, Measure::kAdopt},
        {Content::kUnknown, true, false, Measure::kReplace},
        {Content::kUnknown, false, false, Measure::kLeave},
    };
    for (const Row& row : rows) {
        const Situation situation{
            .content = row.content, .has_version = row.has_version, .is_newer = row.is_newer};

        EXPECT_EQ(measure_for(situation), row.measure)
            << "content " << static_cast<int>(row.content) << ", version " << row.has_version
            << ", newer " << row.is_newer;
    }
}

TEST(Plan, NeverTakesTheOnlyCopyAway) {
    for (int content = 0; content <= static_cast<int>(Content::kUnknown); ++content) {
        for (const bool is_newer : {false, true}) {
            const Situation situation{.content = static_cast<Content>(content),
                                      .has_version = false,
                                      .is_newer = is_newer};

            const Measure measure = measure_for(situation);

            EXPECT_TRUE(measure == Measure::kLeave || measure == Measure::kAdopt ||
                        measure == Measure::kSetAside);
        }
    }
}

}  // namespace
}  // namespace pawl::adopt
