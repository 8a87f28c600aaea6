// See changes.h.
#include "config/changes.h"

#include "config/keys.h"

#include <algorithm>
#include <set>

namespace pawl::config {

namespace {

Outcome outcome_of(Applies applies) {
    switch (applies) {
        case Applies::kAtOnce:
            return Outcome::kApplied;
        case Applies::kNextLaunch:
            return Outcome::kNextLaunch;
        case Applies::kRestart:
            break;
    }
    return Outcome::kRefused;
}

std::string why_of(Outcome outcome, const std::string& job) {
    if (outcome != Outcome::kRefused) return "";
    return job.empty() ? "needs a restart of pawld"
                       : "needs a restart of pawld, or the job removed and then added again";
}

std::string as_text(const Json& value) {
    if (value.is_null()) return "none";
    return value.is_string() ? value.get<std::string>()
                             : value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// One change a variable: names without values.
void compare_variables(const Json& from, const Json& to, const Change& change,
                       std::vector<Change>& changes) {
    std::set<std::string> names;
    for (const Json* const side : {&from, &to}) {
        for (const auto& item : side->items())
            names.insert(item.key());
    }
    for (const std::string& name : names) {
        const bool is_same =
            from.contains(name) && to.contains(name) && from.at(name) == to.at(name);
        if (is_same) continue;
        Change one = change;
        one.key += "." + name;
        changes.push_back(std::move(one));
    }
}

template <class Target>
void compare(std::span<const Field<Target>> fields, const Target& from, const Target& to,
             const std::string& job, std::vector<Change>& changes) {
    for_each_field(fields, [&](const Field<Target>& field, const std::string& path) {
        const Json before = field.show(from);
        const Json after = field.show(to);
        if (before == after) return;
        const Outcome outcome = outcome_of(field.key.applies);
        Change change{.job = job, .key = path, .outcome = outcome, .why = why_of(outcome, job)};
        if (field.type.kind == Kind::kVariables)
            return compare_variables(before, after, change, changes);
        change.from = as_text(before);
        change.to = as_text(after);
        changes.push_back(std::move(change));
    });
}

template <class Target>
void copy_fields(std::span<const Field<Target>> fields, const Target& from, Target& to,
                 Applies which) {
    for_each_field(fields, [&](const Field<Target>& field, const std::string&) {
        if (field.key.applies == which) field.copy(from, to);
    });
}

template <class Jobs>
auto find_job(Jobs& jobs, const std::string& name) {
    return std::find_if(jobs.begin(), jobs.end(),
                        [&name](const JobConfig& job) { return job.name == name; });
}

// Why a job can't be added beside those that are there; empty: it can.
std::string obstacle_to(const JobConfig& added, std::span<const JobConfig> there) {
    for (const JobConfig& other : there) {
        if (other.name == added.name)
            return "the job that was removed is still being drained; reload again when it has "
                   "ended";
        for (const std::string* const mine :
             {&added.checkpoint.directory, &added.output_directory}) {
            if (*mine != other.checkpoint.directory && *mine != other.output_directory) continue;
            return fmt::format("its directory '{}' is in use by job '{}'", *mine, other.name);
        }
    }
    return "";
}

std::string_view name_of(Outcome outcome) {
    switch (outcome) {
        case Outcome::kApplied:
            return "applied";
        case Outcome::kNextLaunch:
            return "next launch";
        case Outcome::kRefused:
            break;
    }
    return "refused";
}

std::string_view name_of(Change::What what) {
    switch (what) {
        case Change::What::kChanged:
            return "changed";
        case Change::What::kAdded:
            return "added";
        case Change::What::kRemoved:
            break;
    }
    return "removed";
}

}  // namespace

std::vector<Change> differences(const DaemonConfig& from, const DaemonConfig& to) {
    std::vector<Change> changes;
    compare(daemon_fields(), from, to, "", changes);
    for (const JobConfig& job : from.jobs) {
        const auto same = find_job(to.jobs, job.name);
        if (same == to.jobs.end()) {
            changes.push_back({.what = Change::What::kRemoved, .job = job.name});
        } else {
            compare(job_fields(), job, *same, job.name, changes);
        }
    }
    for (const JobConfig& job : to.jobs) {
        if (find_job(from.jobs, job.name) == from.jobs.end())
            changes.push_back({.what = Change::What::kAdded, .job = job.name});
    }
    return changes;
}

ReloadPlan plan_reload(const DaemonConfig& current, const DaemonConfig& wanted,
                       std::span<const JobConfig> leaving) {
    ReloadPlan plan{.changes = differences(current, wanted), .config = current};
    copy_fields(daemon_fields(), wanted, plan.config, Applies::kAtOnce);
    std::vector<JobConfig> there(leaving.begin(), leaving.end());
    there.insert(there.end(), current.jobs.begin(), current.jobs.end());
    std::vector<JobConfig>& jobs = plan.config.jobs;
    std::erase_if(jobs, [&wanted](const JobConfig& job) {
        return find_job(wanted.jobs, job.name) == wanted.jobs.end();
    });
    for (JobConfig& job : jobs) {
        const JobConfig& goal = *find_job(wanted.jobs, job.name);
        adopt(goal, job, Applies::kAtOnce);
        adopt(goal, job, Applies::kNextLaunch);
    }
    for (Change& change : plan.changes) {
        if (change.what != Change::What::kAdded) continue;
        const JobConfig& added = *find_job(wanted.jobs, change.job);
        change.why = obstacle_to(added, there);
        if (!change.why.empty()) {
            change.outcome = Outcome::kRefused;
            continue;
        }
        jobs.push_back(added);
        there.push_back(added);
    }
    return plan;
}

void adopt(const JobConfig& from, JobConfig& to, Applies which) {
    copy_fields(job_fields(), from, to, which);
}

std::string Change::text() const {
    return (job.empty() ? "" : fmt::format("job '{}': ", job)) + text_of_job();
}

std::string Change::text_of_job() const {
    if (what != What::kChanged) {
        if (outcome == Outcome::kRefused) return fmt::format("not {}: {}", name_of(what), why);
        return what == What::kAdded ? "added" : "removed; it is drained";
    }
    const std::string values =
        from.empty() && to.empty() ? " changed" : fmt::format(": {} -> {}", from, to);
    std::string then = "applied";
    if (outcome == Outcome::kNextLaunch) then = "applies when its ranks are started the next time";
    if (outcome == Outcome::kRefused) then = fmt::format("not applied: {}", why);
    return fmt::format("{}{}: {}", key, values, then);
}

std::string to_json(std::span<const Change> changes) {
    const auto text_or_null = [](const std::string& text) {
        return text.empty() ? Json() : Json(text);
    };
    Json list = Json::array();
    for (const Change& change : changes) {
        list.push_back({{"what", name_of(change.what)},
                        {"job", text_or_null(change.job)},
                        {"key", text_or_null(change.key)},
                        {"from", text_or_null(change.from)},
                        {"to", text_or_null(change.to)},
                        {"outcome", name_of(change.outcome)},
                        {"why", text_or_null(change.why)},
                        {"text", change.text()}});
    }
    return Json{{"changes", list}}.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace pawl::config
