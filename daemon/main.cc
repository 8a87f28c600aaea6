// pawld: reads the configuration, sets up the log, runs the daemon.
#include "config/config.h"
#include "daemon/daemon.h"

#include <CLI/CLI.hpp>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace {

using pawl::daemon::ReportLevel;

constexpr int kExitConfiguration = 78;  // EX_CONFIG

spdlog::level::level_enum level_of(pawl::config::LogLevel level) {
    switch (level) {
        case pawl::config::LogLevel::kDebug:
            return spdlog::level::debug;
        case pawl::config::LogLevel::kInfo:
            return spdlog::level::info;
        case pawl::config::LogLevel::kWarning:
            return spdlog::level::warn;
        case pawl::config::LogLevel::kError:
            return spdlog::level::err;
    }
    return spdlog::level::info;
}

class LogReporter final : public pawl::daemon::Reporter {
public:
    void event(const std::string& job, ReportLevel level, const std::string& text) override {
        spdlog::level::level_enum target = spdlog::level::info;
        if (level == ReportLevel::kWarning) target = spdlog::level::warn;
        if (level == ReportLevel::kError) target = spdlog::level::err;
        if (job.empty()) {
            spdlog::log(target, "{}", text);
        } else {
            spdlog::log(target, "{}: {}", job, text);
        }
    }
    void progress(const pawl::control::JobStatus&) override {}
};

void set_up_log(pawl::config::LogLevel level) {
    auto logger = std::make_shared<spdlog::logger>(
        "pawld", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    // Under systemd the journal adds the time itself.
    const bool has_journal =
        std::getenv("JOURNAL_STREAM") != nullptr;  // NOLINT(concurrency-mt-unsafe)
    logger->set_pattern(has_journal ? "%l: %v" : "%Y-%m-%dT%H:%M:%S.%e %l: %v");
    logger->set_level(level_of(level));
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
}

int run(int argc, char** argv) {
    CLI::App app{
        "pawld: supervises training, keeps atomic and verified checkpoints, and resumes from them"};
    std::string path = "/etc/pawl/pawld.yaml";
    app.add_option("--config", path, "the configuration file")->capture_default_str();
    app.set_version_flag("--version", PAWL_VERSION);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 64;  // EX_USAGE
    }
    auto config = pawl::config::load(path);
    if (!config) {
        static_cast<void>(std::fprintf(stderr, "pawld: %s\n", config.error().text().c_str()));
        return kExitConfiguration;
    }
    set_up_log(config->log_level);
    spdlog::info("pawld {} starts with '{}', state in '{}'", PAWL_VERSION, path,
                 config->state_directory);
    LogReporter reporter;
    const auto ended =
        pawl::daemon::run_daemon({.config = std::move(*config),
                                  .lifetime = pawl::daemon::Lifetime::kService,
                                  .config_path = path,
                                  .set_log_level =
                                      [](pawl::config::LogLevel level) {
                                          spdlog::default_logger()->set_level(level_of(level));
                                      }},
                                 reporter);
    if (!ended) {
        spdlog::error("{}", ended.error().text());
        return 1;
    }
    spdlog::info("pawld has stopped");
    return *ended;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        static_cast<void>(std::fprintf(stderr, "pawld: %s\n", error.what()));
        return 70;  // EX_SOFTWARE
    }
}
