// reference() of schema.h: docs/configuration.md. Touches nothing.
#include "config/keys.h"
#include "config/schema.h"

namespace pawl::config {

namespace {

constexpr std::string_view kHead = R"(# The configuration of pawld

Written by `pawl config reference` from the table of keys in `src/config/keys.cc`; a test keeps it true. Examples are in
[configs/](../configs); `pawl config schema` prints a JSON schema of the same table, for editors.

## Values
| kind | written |
| --- | --- |
| duration | whole numbers with units, from the longest to the shortest: `500ms`, `30s`, `5m`, `1h30m`, `2d`. No fraction (`90m`, not `1.5h`), no bare number |
| size | a whole number with a unit: `B`; `kB`, `MB`, `GB`, `TB` of 1000; `KiB`, `MiB`, `GiB`, `TiB` of 1024. `1536MiB`, not `1.5GiB`, and not `10G` |
| path | a relative one starts at the directory of the file that has it. `~` is refused: only a shell knows it |
| variable | `${NAME}` in any value is the variable of pawld's own environment; one that is not set is an error. `${NAME:-DEFAULT}` is DEFAULT where it is not set or empty. `$$` is a dollar; any other dollar stays, so `$HOME` is for the shell that a command may start. In a job, `${PAWL_JOB}` is its name. Within `[…]` and `{…}` put such a value in quotes, as YAML wants it |

Every error says file, line, column, key, what was expected and what was found. An unknown key is an error. Limits: 1 MiB a
file, 256 files, includes 8 deep, 256 jobs, 16 MiB of text once aliases, defaults and variables are filled in.

## Several files, and defaults
`include` names files with more jobs. An included file may hold `jobs`, `defaults` and `include`; the daemon's own keys
belong in the main file. A job is written once, in whichever file; `defaults` stand in one file and serve the jobs of all.
They are merged key by key, maps within maps: what a job writes itself wins, its `environment` is added to that of
`defaults`, and a list (`command`) is replaced whole. `checkpoint.every`, `every_steps` and `every_epochs` are keys like
others: one from `defaults` and another of the job's own both apply.

## Reload
`pawl reload`, SIGHUP, or `systemctl reload pawld` reads the files again. A file that is wrong, or gone, changes nothing and
is reported. What differs is listed, each with what becomes of it:

| takes effect | |
| --- | --- |
| at once | in a running job, too; a new cadence names its next step at once, graces hold for the next stop |
| next launch | when the job's ranks are started the next time, be it after a crash. A job that has ended is not started by it |
| restart | not before pawld is restarted, or the job is removed (reload), has ended, and is added again (reload). Until then every reload says so |

A job that is new in the file is started. One that is gone from it is drained as by `pawl stop`: a last checkpoint, then its
ranks leave; its checkpoints stay. Values of `environment` appear in no report.
)";

std::string applies_text(Applies applies) {
    switch (applies) {
        case Applies::kAtOnce:
            return "at once";
        case Applies::kNextLaunch:
            return "next launch";
        case Applies::kRestart:
            break;
    }
    return "restart";
}

std::string type_text(const Type& type) {
    switch (type.kind) {
        case Kind::kNumber:
            return fmt::format("number, {} to {}", type.numbers.min, type.numbers.max);
        case Kind::kDuration:
            return fmt::format("duration, {} to {}{}", exact_duration(type.durations.min),
                               exact_duration(type.durations.max),
                               type.word.empty() ? "" : fmt::format(", or `{}`", type.word));
        case Kind::kSize:
            return fmt::format("size, {} to {}", exact_bytes(type.sizes.min),
                               exact_bytes(type.sizes.max));
        case Kind::kText:
            return "text";
        case Kind::kPath:
            return "path";
        case Kind::kChoice:
            return fmt::format("`{}`", fmt::join(type.choices, "`, `"));
        case Kind::kPatterns:
            return "path or list of paths, with wildcards";
        case Kind::kArguments:
        case Kind::kWords:
            return "list of words";
        case Kind::kVariables:
            return "map of variables";
        case Kind::kFiles:
            return "path or list of paths";
        case Kind::kJob:
            return "map, see below";
        case Kind::kJobs:
            return "map of maps, see below";
        case Kind::kMap:
            break;
    }
    return "map";
}

std::string default_text(std::string text) {
    if (text.empty() || text.find(' ') != std::string::npos) return text;
    return "`" + text + "`";
}

template <class Target>
void write_rows(std::span<const Field<Target>> fields, const std::string& above,
                std::string& text) {
    for (const Field<Target>& field : fields) {
        const std::string path = above + std::string(field.key.name);
        const bool is_map = field.type.kind == Kind::kMap;
        const bool is_required = !field.key.required_as.empty();
        const bool has_effect = !is_map && field.show != nullptr;
        text += fmt::format("| `{}` | {} | {} | {} | {} |\n", path, type_text(field.type),
                            is_required ? "required" : default_text(default_of(field)),
                            has_effect ? applies_text(field.key.applies) : "", field.key.about);
        if (is_map) write_rows(field.children, path + ".", text);
    }
}

}  // namespace

std::string reference() {
    constexpr std::string_view kTable =
        "| key | kind | default | takes effect | |\n| --- | --- | --- | --- | --- |\n";
    std::string text(kHead);
    text += "\n## The daemon's keys\n";
    text += kTable;
    write_rows(daemon_fields(), "", text);
    text += "\n## A job's keys, and those of `defaults`\n";
    text += kTable;
    write_rows(job_fields(), "", text);
    return text;
}

}  // namespace pawl::config
