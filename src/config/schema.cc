// json_schema() of schema.h. Touches nothing.
#include "config/schema.h"

#include "config/keys.h"

namespace pawl::config {

namespace {

// What YAML takes for text, a number or a truth value: as a word or a variable they are text to
// pawl.
Json any_scalar() {
    return {{"type", {"string", "number", "boolean"}}};
}

Json or_variable(Json value) {
    return {{"anyOf", {std::move(value), {{"$ref", "#/$defs/with_variable"}}}}};
}

constexpr std::string_view kDuration = "([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?";

Json value_schema(const Type& type) {
    switch (type.kind) {
        case Kind::kNumber:
            return or_variable({{"type", "integer"},
                                {"minimum", type.numbers.min},
                                {"maximum", type.numbers.max}});
        case Kind::kDuration:
            return or_variable(
                {{"type", "string"},
                 {"minLength", 2},
                 {"pattern", type.word.empty() ? fmt::format("^{}$", kDuration)
                                               : fmt::format("^({}|{})$", type.word, kDuration)}});
        case Kind::kSize:
            return or_variable(
                {{"type", "string"}, {"pattern", "^[0-9]+(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$"}});
        case Kind::kText:
            return {{"type", "string"}, {"minLength", 1}};
        case Kind::kPath:
            return {{"type", "string"}, {"pattern", "^[^~]"}};
        case Kind::kChoice:
            return or_variable({{"enum", type.choices}});
        case Kind::kWords:
            return {{"type", "array"}, {"minItems", 1}, {"items", any_scalar()}};
        case Kind::kArguments:
            return {{"type", "array"}, {"items", any_scalar()}};
        case Kind::kPatterns: {
            const Json path = {{"type", "string"}, {"pattern", "^[^~]"}};
            return {{"anyOf", {path, {{"type", "array"}, {"items", path}}}}};
        }
        case Kind::kVariables:
            return {{"type", "object"},
                    {"propertyNames", {{"pattern", kVariableNamePattern}}},
                    {"additionalProperties", any_scalar()}};
        case Kind::kFiles: {
            const Json path = {{"type", "string"}, {"pattern", "^[^~]"}};
            return {{"anyOf", {path, {{"type", "array"}, {"items", path}}}}};
        }
        case Kind::kJob:
            return {{"$ref", "#/$defs/job"}};
        case Kind::kJobs:
            return {{"type", "object"},
                    {"minProperties", 1},
                    {"maxProperties", kJobsMax},
                    {"propertyNames", {{"pattern", kJobNamePattern}}},
                    {"additionalProperties", {{"$ref", "#/$defs/job"}}}};
        case Kind::kMap:
            break;
    }
    return Json::object();
}

std::string limits_of(const Type& type) {
    if (type.kind == Kind::kDuration) return " " + describe(type.durations) + ".";
    if (type.kind == Kind::kSize) return " " + describe(type.sizes) + ".";
    return "";
}

template <class Target>
Json map_schema(std::span<const Field<Target>> fields) {
    Json properties = Json::object();
    for (const Field<Target>& field : fields) {
        Json value =
            field.type.kind == Kind::kMap ? map_schema(field.children) : value_schema(field.type);
        value["description"] = std::string(field.key.about) + limits_of(field.type);
        const bool has_own_default =
            field.key.default_as.empty() && field.key.required_as.empty() && field.show != nullptr;
        if (has_own_default) {
            Json default_value = field.show(Target{});
            if (!default_value.is_null()) value["default"] = std::move(default_value);
        }
        properties[std::string(field.key.name)] = std::move(value);
    }
    return {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
}

// What a complete map has, and nothing of what it may have.
template <class Target>
Json required_schema(std::span<const Field<Target>> fields) {
    Json required = Json::array();
    Json properties = Json::object();
    for (const Field<Target>& field : fields) {
        if (!field.key.required_as.empty()) required.push_back(field.key.name);
        if (field.children.empty()) continue;
        Json inner = required_schema(field.children);
        if (!inner.at("required").empty()) properties[std::string(field.key.name)] = inner;
    }
    Json schema = {{"required", required}};
    if (!properties.empty()) schema["properties"] = properties;
    return schema;
}

}  // namespace

std::string json_schema() {
    Json root = map_schema(daemon_fields());
    Json included = {
        {"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
    for (const Field<DaemonConfig>& field : daemon_fields()) {
        const bool is_for_all = field.type.kind == Kind::kFiles || field.type.kind == Kind::kJob ||
                                field.type.kind == Kind::kJobs;
        const std::string name(field.key.name);
        if (is_for_all) included["properties"][name] = {{"$ref", "#/properties/" + name}};
    }
    Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                   {"title", "pawld's configuration"}};
    schema.update(root);
    schema["anyOf"] = {{{"required", {"jobs"}}}, {{"required", {"include"}}}};
    // With defaults, which an included file may hold as well, a job need not say everything.
    schema["if"] = {
        {"not", {{"anyOf", {{{"required", {"defaults"}}}, {{"required", {"include"}}}}}}}};
    schema["then"] = {
        {"properties", {{"jobs", {{"additionalProperties", {{"$ref", "#/$defs/complete_job"}}}}}}}};
    schema["$defs"] = {
        {"job", map_schema(job_fields())},
        {"complete_job", required_schema(job_fields())},
        {"included_file", included},
        {"with_variable", {{"type", "string"}, {"pattern", "\\$\\{[A-Za-z_]"}}},
    };
    return schema.dump(2) + "\n";
}

}  // namespace pawl::config
