// The ways of directories: links, second names, old copies, wrong clocks, what can't be watched.
#include "tests/adopt/script.h"

#include <gmock/gmock.h>

#include <sys/stat.h>
#include <unistd.h>

namespace pawl::adopt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(AdopterWays, SetsAnOlderVersionAsideAndGoesOnFromOneThatWasTouched) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    for (const unsigned step : {1u, 2u}) {
        write(script.path("c.pth"), version(step));
        script.set_time("c.pth", step);
        ASSERT_TRUE(script.look().committed);
    }
    write(script.path("c.pth"), version(1));
    script.set_time("c.pth", 1);

    const Prepared old = script.start();

    EXPECT_EQ(read(script.path("c.pth")), version(2));
    EXPECT_EQ(read(script.path(".c.pth.replaced-1")), version(1));
    EXPECT_FALSE(old.looked.committed);

    // The remedy of docs/operating.md.
    std::filesystem::rename(script.path(".c.pth.replaced-1"), script.path("c.pth"));
    script.set_time("c.pth", 3);
    const Prepared touched = script.start();

    EXPECT_EQ(read(script.path("c.pth")), version(1));
    ASSERT_TRUE(touched.looked.committed);
    EXPECT_EQ(touched.looked.committed->manifest.step, pawl::Step{1});
    EXPECT_THAT(script.hidden(), IsEmpty());
}

TEST(AdopterWays, KeepsAFileOfASeriesOnceAlsoIfALinkLeadsToIt) {
    Script script({"*.pth"});
    static_cast<void>(script.start());
    for (const unsigned step : {1u, 2u}) {
        const std::string name = fmt::format("ckpt-{}.pth", step);
        write(script.path(name), version(step));
        script.set_time(name, step);
        const Looked looked = script.look();
        ASSERT_TRUE(looked.committed);
        script.link(name, "latest.pth");
        EXPECT_FALSE(script.look().committed);
        EXPECT_EQ(looked.committed->manifest.adopted[0].path, name);
    }
    write(script.path("ckpt-2.pth"), half(version(2)));

    const Prepared prepared = script.start();

    EXPECT_EQ(read(script.path("ckpt-2.pth")), version(2));
    EXPECT_EQ(std::filesystem::read_symlink(script.path("latest.pth")), "ckpt-2.pth");
    EXPECT_THAT(script.hidden(), ElementsAre(".ckpt-2.pth.torn-1"));
    EXPECT_EQ(prepared.resume_path, script.path("ckpt-2.pth"));
}

TEST(AdopterWays, LeadsALinkFromATornFileToTheNewestOfItsSeries) {
    Script script({"*.pth"});
    static_cast<void>(script.start());
    write(script.path("ckpt-1.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    write(script.path("ckpt-2.pth"), half(version(2)));
    script.link("ckpt-2.pth", "latest.pth");

    static_cast<void>(script.start());

    EXPECT_EQ(read(script.path("latest.pth")), version(1));
    EXPECT_TRUE(std::filesystem::is_symlink(script.path("latest.pth")));
    EXPECT_THAT(script.hidden(), ElementsAre(".ckpt-2.pth.torn-1"));
}

TEST(AdopterWays, PutsAFileBackOnceThatTwoPatternsLeadTo) {
    Script script({"latest.pth", "ckpt-*.pth"});
    static_cast<void>(script.start());
    write(script.path("ckpt-1.pth"), version(1));
    script.link("ckpt-1.pth", "latest.pth");
    ASSERT_TRUE(script.look().committed);
    write(script.path("ckpt-1.pth"), half(version(1)));

    static_cast<void>(script.start());

    EXPECT_EQ(read(script.path("ckpt-1.pth")), version(1));
    EXPECT_EQ(read(script.path("latest.pth")), version(1));
    EXPECT_THAT(script.hidden(), ElementsAre(".ckpt-1.pth.torn-1"));
}

TEST(AdopterWays, OverwritesNoWholeFileThatALinkLeadsTo) {
    Script script({"latest.pth"});
    static_cast<void>(script.start());
    for (const unsigned step : {1u, 2u}) {
        const std::string name = fmt::format("e{}.pth", step);
        write(script.path(name), version(step));
        script.set_time(name, step);
        script.link(name, "latest.pth");
        ASSERT_TRUE(script.look().committed);
    }
    write(script.path("best.pth"), version(9));  // in no checkpoint
    script.set_time("best.pth", 0);

    for (const std::string name : {"e1.pth", "best.pth"}) {
        const Bytes before = read(script.path(name));
        script.link(name, "latest.pth");

        static_cast<void>(script.start());

        EXPECT_EQ(read(script.path(name)), before) << name;
        EXPECT_EQ(read(script.path("latest.pth")), version(2)) << name;
        EXPECT_FALSE(std::filesystem::is_symlink(script.path("latest.pth")));
    }
    EXPECT_EQ(std::filesystem::read_symlink(script.path(".latest.pth.replaced-1")), "e1.pth");
    EXPECT_EQ(std::filesystem::read_symlink(script.path(".latest.pth.replaced-2")), "best.pth");
    EXPECT_EQ(read(script.path("e2.pth")), version(2));
}

TEST(AdopterWays, PutsATornFileBackThroughItsLink) {
    Script script({"latest.pth"});
    static_cast<void>(script.start());
    write(script.path("e1.pth"), version(1));
    script.link("e1.pth", "latest.pth");
    ASSERT_TRUE(script.look().committed);
    write(script.path("e1.pth"), half(version(1)));

    const Prepared prepared = script.start();

    EXPECT_EQ(read(script.path("e1.pth")), version(1));
    EXPECT_EQ(std::filesystem::read_symlink(script.path("latest.pth")), "e1.pth");
    ASSERT_EQ(prepared.looked.notes.size(), 1u);
    EXPECT_THAT(prepared.looked.notes[0].text,
                HasSubstr("'e1.pth', where 'latest.pth' leads, was"));
}

TEST(AdopterWays, PutsBackAlsoWhereNothingCanBeWatched) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    write(script.path("c.pth"), half(version(2)));
    // No inotify descriptor any more: each watch fails.
    ASSERT_EQ(::dup2(STDERR_FILENO, script.watches.descriptor()), script.watches.descriptor());

    const Prepared prepared = script.start();

    EXPECT_EQ(read(script.path("c.pth")), version(1));
    ASSERT_FALSE(prepared.looked.notes.empty());
    EXPECT_THAT(prepared.looked.notes[0].text, HasSubstr("kept when it has ended"));
    write(script.path("c.pth"), version(3));
    EXPECT_TRUE(script.look().committed);
    EXPECT_THAT(script.look().notes, IsEmpty()) << "said once";
}

TEST(AdopterWays, DoesNotStartWhereAKeptFileCannotBeLookedFor) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    script.link("c.pth", "c.pth");  // leads nowhere, and for ever

    auto choice = script.store.choose();
    ASSERT_TRUE(choice.has_value());
    const Prepared prepared = script.adopter.prepare(script.settings, *choice, script.context);

    ASSERT_TRUE(prepared.impossible);
    EXPECT_THAT(prepared.impossible->text(), HasSubstr("look at"));
    EXPECT_TRUE(std::filesystem::is_symlink(script.path("c.pth")));
}

TEST(AdopterWays, NamesOnceThePatternThatNoFileEverHad) {
    Script script({"c.pth", "out/epoch_*.pth", "gone.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    write(script.path("gone.pth"), half(version(1)));
    static_cast<void>(script.look());
    std::filesystem::remove(script.path("gone.pth"));

    const std::vector<Note> notes = script.adopter.never_found();

    ASSERT_EQ(notes.size(), 1u);
    EXPECT_THAT(notes[0].text,
                HasSubstr(fmt::format("'epoch_*.pth' was ever seen in '{}'", script.path("out"))));
    EXPECT_THAT(script.adopter.never_found(), IsEmpty());
}

TEST(AdopterWays, KeepsWhatChangesInASeriesWhateverItsTime) {
    Script script({"e*.pth"});
    write(script.path("e0.pth"), version(10, 48));
    script.set_time("e0.pth", 0);
    static_cast<void>(script.start());
    write(script.path("e1.pth"), version(1));
    script.set_time("e1.pth", kAhead);
    ASSERT_TRUE(script.look().committed);

    write(script.path("e2.pth"), version(2));  // the clock was set back
    script.set_time("e2.pth", 2);
    const Looked second = script.look();
    write(script.path("e3.pth"), version(3));
    write(script.path("e4.pth"), version(4));
    script.set_time("e3.pth", 3);
    script.set_time("e4.pth", 4);
    const Looked third = script.look();

    ASSERT_TRUE(second.committed);
    EXPECT_EQ(second.committed->manifest.step, pawl::Step{2});
    ASSERT_TRUE(third.committed);
    EXPECT_EQ(third.committed->manifest.step, pawl::Step{4});
    EXPECT_FALSE(script.look().committed) << "e3 is older than e4";
    // No new version: a copy with its time, another name, another mode.
    std::filesystem::copy_file(script.path("e0.pth"), script.path("e-best.pth"));
    script.set_time("e-best.pth", 0);
    std::filesystem::create_hard_link(script.path("e2.pth"), script.path("e-link.pth"));
    ASSERT_EQ(::chmod(script.path("e1.pth").c_str(), 0600), 0);
    EXPECT_FALSE(script.look().committed);
}

TEST(AdopterWays, PassesOverATimeThatIsStillToComeAndSaysSo) {
    Script script({"e*.pth"});
    script.context.retention = {.keep_last = 1};
    static_cast<void>(script.start());
    write(script.path("e1.pth"), version(1));
    script.set_time("e1.pth", kAhead);
    ASSERT_TRUE(script.look().committed);
    write(script.path("e2.pth"), version(2));
    ASSERT_TRUE(script.look().committed);

    const Prepared prepared = script.start();

    EXPECT_EQ(prepared.resume_path, script.path("e2.pth"));
    ASSERT_EQ(prepared.looked.notes.size(), 1u);
    EXPECT_THAT(prepared.looked.notes[0].text, HasSubstr("'e1.pth' has an impossible time"));
}

TEST(AdopterWays, SaysWhichFileOfASeriesCameLaterWithAnOlderTime) {
    Script script({"e*.pth"});
    static_cast<void>(script.start());
    write(script.path("e1.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    write(script.path("e2.pth"), version(2));  // while nobody looked
    do {                                       // the file system's clock has ticks
        script.set_time("e2.pth", 2);
    } while ((*facts_of(script.path("e2.pth")))->changed_ns <=
             (*facts_of(script.path("e1.pth")))->changed_ns);

    const Prepared prepared = script.start();

    ASSERT_EQ(prepared.looked.notes.size(), 1u);
    EXPECT_THAT(prepared.looked.notes[0].text, HasSubstr("'e2.pth' has an older time"));
}

TEST(AdopterWays, LooksIntoDirectoriesThatLinksLeadTo) {
    Script script({"runs/*/c.pth"});
    std::filesystem::create_directories(script.path("runs"));
    std::filesystem::create_directories(script.path("disk/a"));
    script.link("../disk/a", "runs/a");
    static_cast<void>(script.start());
    write(script.path("disk/a/c.pth"), version(1));

    EXPECT_TRUE(script.watches.take({pattern_of("c.pth", "/")})) << "it is watched";
    const Looked looked = script.look();
    ASSERT_TRUE(looked.committed);
    EXPECT_EQ(looked.committed->manifest.adopted[0].path, "runs/a/c.pth");
    write(script.path("disk/a/c.pth"), half(version(2)));
    static_cast<void>(script.start());

    EXPECT_EQ(read(script.path("disk/a/c.pth")), version(1));
    EXPECT_TRUE(std::filesystem::is_symlink(script.path("runs/a")));
    std::filesystem::create_directories(script.path("runs/b"));
    script.link("b", "runs/0");  // first, and not its own name
    write(script.path("runs/b/c.pth"), version(3));
    const Looked own = script.look();
    ASSERT_TRUE(own.committed);
    EXPECT_EQ(own.committed->manifest.adopted[0].path, "runs/b/c.pth");
}

TEST(AdopterWays, LeavesAnEmptyFileThatNeverWasAVersion) {
    Script script({"*"});
    script.settings.patterns.push_back("c.pth");
    write(script.path("lock"), {});
    write(script.path("c.pth"), {});

    const Prepared prepared = script.start();

    EXPECT_TRUE(std::filesystem::exists(script.path("lock")));
    EXPECT_EQ(prepared.resume_path, "");
    EXPECT_THAT(script.hidden(), ElementsAre(".c.pth.torn-1"));
    write(script.path("1.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    write(script.path("1.pth"), {});
    static_cast<void>(script.start());
    EXPECT_EQ(read(script.path("1.pth")), version(1));
    EXPECT_THAT(script.hidden(), ElementsAre(".1.pth.torn-1", ".c.pth.torn-1"));
}

TEST(AdopterWays, SeesALinkToADirectoryLeadElsewhere) {
    for (const std::string text : {"latest/c.pth", "*/c.pth"}) {
        Script script({text});
        std::filesystem::create_directories(script.path("disk/a"));
        std::filesystem::create_directories(script.path("disk/b"));
        script.link("disk/a", "latest");
        write(script.path("disk/a/c.pth"), version(1));
        const Prepared prepared = script.start();
        ASSERT_TRUE(prepared.looked.committed);
        write(script.path("disk/b/c.pth"), version(2));
        std::vector<Pattern> patterns = {pattern_of(text, script.place.path())};
        for (const std::string& path : prepared.looked.final_paths)
            patterns.push_back(pattern_of(path, "/"));
        static_cast<void>(script.watches.take(patterns));

        script.link("disk/b", "latest");

        EXPECT_TRUE(script.watches.take(patterns)) << text;
        const Looked looked = script.look();
        ASSERT_TRUE(looked.committed) << text;
        EXPECT_EQ(looked.committed->manifest.step, pawl::Step{2});
        write(script.path("disk/b/c.pth"), version(3));
        EXPECT_TRUE(script.watches.take(patterns)) << text;
    }
}

}  // namespace
}  // namespace pawl::adopt
