// Images for Python: plan and lay out a torch.save file, copy storages into it, write one to disk,
// verify one on disk. Everything that touches many bytes releases the GIL.
#include "base/checksum.h"
#include "base/file_system.h"
#include "checkpoint/image_writer.h"
#include "checkpoint/shards.h"
#include "native.h"
#include "torchfile/archive.h"

#include <cstring>
#include <span>
#include <vector>

namespace pawl::native {
namespace {

constexpr const char* kPlanName = "pawl.ImagePlan";

void destroy_plan(PyObject* capsule) {
    delete static_cast<torchfile::ImagePlan*>(PyCapsule_GetPointer(capsule, kPlanName));
}

bool read_sizes(PyObject* list, std::vector<std::uint64_t>& sizes) {
    const Py_ssize_t count = PySequence_Size(list);
    if (count < 0) return false;
    sizes.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* const item = PySequence_GetItem(list, i);
        if (item == nullptr) return false;
        const unsigned long long bytes = PyLong_AsUnsignedLongLong(item);
        Py_DECREF(item);
        if (PyErr_Occurred() != nullptr) return false;
        sizes.push_back(bytes);
    }
    return true;
}

// plan(pickle, sizes, shards) -> (plan, bytes, offsets): where each storage goes in an image around
// this data.pkl. `shards` is the text of the record of that name, or empty: none.
PyObject* plan(PyObject*, PyObject* arguments) {
    const char* pickle = nullptr;
    Py_ssize_t pickle_bytes = 0;
    PyObject* list = nullptr;
    const char* shards = nullptr;
    Py_ssize_t shards_bytes = 0;
    if (PyArg_ParseTuple(arguments, "y#Oy#", &pickle, &pickle_bytes, &list, &shards,
                         &shards_bytes) == 0)
        return nullptr;
    std::vector<std::uint64_t> sizes;
    if (!read_sizes(list, sizes)) return nullptr;
    std::vector<torchfile::OtherRecord> others;
    if (shards_bytes > 0) {
        others.push_back({.name = std::string(checkpoint::kShardsRecord),
                          .content = std::string(shards, static_cast<std::size_t>(shards_bytes))});
    }
    auto planned = torchfile::plan_image(
        std::as_bytes(std::span(pickle, static_cast<std::size_t>(pickle_bytes))), sizes, "archive",
        others);
    if (!planned) return raise(planned.error());
    PyObject* const offsets = PyList_New(static_cast<Py_ssize_t>(planned->storages.size()));
    if (offsets == nullptr) return nullptr;
    for (std::size_t i = 0; i < planned->storages.size(); ++i) {
        PyObject* const offset = PyLong_FromUnsignedLongLong(planned->storages[i].offset);
        if (offset == nullptr || PyList_SetItem(offsets, static_cast<Py_ssize_t>(i), offset) != 0) {
            Py_DECREF(offsets);
            return nullptr;
        }
    }
    const std::uint64_t bytes = planned->bytes;
    auto* const kept = new torchfile::ImagePlan(std::move(*planned));
    PyObject* const capsule = PyCapsule_New(kept, kPlanName, destroy_plan);
    if (capsule == nullptr) {
        delete kept;
        Py_DECREF(offsets);
        return nullptr;
    }
    return Py_BuildValue("NKN", capsule, static_cast<unsigned long long>(bytes), offsets);
}

// Memory that the caller names by address: the buffer protocol is in the stable ABI from 3.11 on
// only.
std::span<std::byte> memory_at(unsigned long long address, unsigned long long bytes) {
    return {reinterpret_cast<std::byte*>(address), static_cast<std::size_t>(bytes)};
}

// lay_out(plan, address, bytes, copies) into the image of `bytes` at `address`: everything around
// the storages, and the storages themselves, each copy being (address, offset, bytes). Other
// threads run meanwhile.
PyObject* lay_out(PyObject*, PyObject* arguments) {
    PyObject* capsule = nullptr;
    unsigned long long image_address = 0;
    unsigned long long image_bytes = 0;
    PyObject* list = nullptr;
    if (PyArg_ParseTuple(arguments, "OKKO", &capsule, &image_address, &image_bytes, &list) == 0)
        return nullptr;
    const std::span<std::byte> image = memory_at(image_address, image_bytes);
    const auto* const planned =
        static_cast<torchfile::ImagePlan*>(PyCapsule_GetPointer(capsule, kPlanName));
    if (planned == nullptr) return nullptr;
    struct Copy {
        const void* from;
        std::uint64_t offset;
        std::uint64_t bytes;
    };
    std::vector<Copy> copies;
    const Py_ssize_t count = PySequence_Size(list);
    if (count < 0) return nullptr;
    copies.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* const item = PySequence_GetItem(list, i);
        if (item == nullptr) return nullptr;
        unsigned long long address = 0;
        unsigned long long offset = 0;
        unsigned long long bytes = 0;
        const int parsed = PyArg_ParseTuple(item, "KKK", &address, &offset, &bytes);
        Py_DECREF(item);
        if (parsed == 0) return nullptr;
        if (offset > planned->bytes || bytes > planned->bytes - offset)
            return raise(-1, "a copy lies outside the image");
        copies.push_back({reinterpret_cast<const void*>(address), offset, bytes});
    }
    if (image.size() != planned->bytes)
        return raise(-1, "the image has another size than was planned");
    {
        const WithoutGil released;
        torchfile::lay_out(*planned, image);
        for (const Copy& copy : copies) {
            if (copy.bytes > 0) std::memcpy(image.data() + copy.offset, copy.from, copy.bytes);
        }
    }
    Py_RETURN_NONE;
}

// write_image(path, address, bytes) -> (bytes, chunk_bytes, [digest, …]): a new file, CRCs filled
// in, synced. The directory that names it is not.
PyObject* write_image(PyObject*, PyObject* arguments) {
    const char* path = nullptr;
    unsigned long long address = 0;
    unsigned long long bytes = 0;
    if (PyArg_ParseTuple(arguments, "sKK", &path, &address, &bytes) == 0) return nullptr;
    const std::span<const std::byte> image = memory_at(address, bytes);
    const auto write = [&]() -> Result<checkpoint::FileEntry> {
        const MemorySource memory(image);
        auto directory = torchfile::read_directory(memory);
        if (!directory) return directory.error();
        const auto fs = make_posix_file_system();
        auto file = fs->create_file(path, image.size());
        if (!file) return file.error();
        auto entry = checkpoint::write_image(**file, image, *directory);
        if (!entry) return entry;
        if (const auto synced = (*file)->sync_data(); !synced) return synced.error();
        return entry;
    };
    Result<checkpoint::FileEntry> written = make_error(ErrorKind::kInternal, "not written");
    {
        const WithoutGil released;
        written = write();
    }
    if (!written) return raise(written.error());
    PyObject* const digests = PyList_New(0);
    if (digests == nullptr) return nullptr;
    for (const Digest& digest : written->chunks) {
        PyObject* const text = PyUnicode_FromString(digest.hex().c_str());
        if (text == nullptr || PyList_Append(digests, text) != 0) {
            Py_XDECREF(text);
            Py_DECREF(digests);
            return nullptr;
        }
        Py_DECREF(text);
    }
    return Py_BuildValue("KKN", static_cast<unsigned long long>(written->bytes),
                         static_cast<unsigned long long>(written->chunk_bytes), digests);
}

// digests(path, chunk_bytes) -> [digest of each chunk, …]
PyObject* digests(PyObject*, PyObject* arguments) {
    const char* path = nullptr;
    unsigned long long chunk_bytes = 0;
    if (PyArg_ParseTuple(arguments, "sK", &path, &chunk_bytes) == 0) return nullptr;
    if (chunk_bytes == 0 || chunk_bytes > (1ULL << 30))
        return raise(-1, "a chunk has 1 byte to 1 GiB");
    std::vector<std::string> all;
    const auto read = [&]() -> Result<void> {
        const auto fs = make_posix_file_system();
        const auto file = fs->open_file(path);
        if (!file) return file.error();
        std::vector<std::byte> chunk;
        const std::uint64_t size = (*file)->size();
        for (std::uint64_t offset = 0; offset < size; offset += chunk_bytes) {
            chunk.resize(
                static_cast<std::size_t>(std::min<std::uint64_t>(chunk_bytes, size - offset)));
            RETURN_IF_ERROR((*file)->read_at(offset, chunk));
            all.push_back(xxh3_128(chunk).hex());
        }
        return {};
    };
    Result<void> done;
    {
        const WithoutGil released;
        done = read();
    }
    if (!done) return raise(done.error());
    PyObject* const list = PyList_New(0);
    if (list == nullptr) return nullptr;
    for (const std::string& digest : all) {
        PyObject* const text = PyUnicode_FromString(digest.c_str());
        if (text == nullptr || PyList_Append(list, text) != 0) {
            Py_XDECREF(text);
            Py_DECREF(list);
            return nullptr;
        }
        Py_DECREF(text);
    }
    return list;
}

// damaged_record(path) -> the name of the first record whose CRC-32 does not hold, or None.
PyObject* damaged_record(PyObject*, PyObject* arguments) {
    const char* path = nullptr;
    if (PyArg_ParseTuple(arguments, "s", &path) == 0) return nullptr;
    std::string name;
    const auto read = [&]() -> Result<void> {
        const auto fs = make_posix_file_system();
        const auto file = fs->open_file(path);
        if (!file) return file.error();
        const auto directory = torchfile::read_directory(**file);
        if (!directory) return directory.error();
        const auto damaged = torchfile::first_damaged_record(**file, *directory);
        if (!damaged) return damaged.error();
        if (damaged->has_value()) name = directory->records[**damaged].name;
        return {};
    };
    Result<void> done;
    {
        const WithoutGil released;
        done = read();
    }
    if (!done) return raise(done.error());
    if (name.empty()) Py_RETURN_NONE;
    return PyUnicode_FromString(name.c_str());
}

}  // namespace

PyMethodDef image_methods[] = {
    {"plan", plan, METH_VARARGS, "plan(pickle, sizes, shards) -> (plan, bytes, offsets)"},
    {"lay_out", lay_out, METH_VARARGS, "lay_out(plan, address, bytes, copies)"},
    {"write_image", write_image, METH_VARARGS,
     "write_image(path, address, bytes) -> (bytes, chunk_bytes, digests)"},
    {"digests", digests, METH_VARARGS, "digests(path, chunk_bytes) -> digests"},
    {"damaged_record", damaged_record, METH_VARARGS, "damaged_record(path) -> name or None"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace pawl::native
