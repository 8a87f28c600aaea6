// pawl._native.Run: a pawl_run as a Python object. Blocking calls release the GIL; `step` does not,
// it takes nanoseconds.
#include "native.h"
#include "pawl/pawl.h"

#include <limits>
#include <vector>

namespace pawl::native {
namespace {

// PyBUF_READ and PyBUF_WRITE, which the headers of the stable ABI show from 3.11 on.
constexpr int kReadable = 0x100;
constexpr int kWritable = 0x200;

struct RunObject {
    PyObject ob_base;  // as PyObject_HEAD has it; the stable ABI has no macro for C++ styles
    pawl_run* run;
};

RunObject* of(PyObject* self) {
    return reinterpret_cast<RunObject*>(self);
}

// nullptr, and an exception, after detach().
pawl_run* alive(PyObject* self) {
    if (of(self)->run == nullptr) raise(PAWL_E_INVALID, "this run is detached");
    return of(self)->run;
}

// A dict of names to numbers; false, and an exception, if it is another thing.
bool read_metrics(PyObject* dict, std::vector<std::pair<std::string, double>>& metrics) {
    if (dict == nullptr || dict == Py_None) return true;
    PyObject* const items = PyMapping_Items(dict);
    if (items == nullptr) return false;
    const Py_ssize_t count = PyList_Size(items);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* const item = PyList_GetItem(items, i);  // borrowed
        const char* name = nullptr;
        double value = 0;
        if (PyArg_ParseTuple(item, "sd", &name, &value) == 0) break;
        metrics.emplace_back(name, value);
    }
    Py_DECREF(items);
    return PyErr_Occurred() == nullptr;
}

std::vector<pawl_metric> views_of(const std::vector<std::pair<std::string, double>>& metrics) {
    std::vector<pawl_metric> views;
    views.reserve(metrics.size());
    for (const auto& [name, value] : metrics)
        views.push_back({name.c_str(), value});
    return views;
}

// What became of a call that may block, and libpawl's words for it: they are this thread's, until
// the next call.
struct Called {
    int code = PAWL_OK;
    std::string text;  // "" if it went well
};
template <class Call>
Called without_gil(const Call& call) {
    const WithoutGil released;
    const int code = call();
    return {code, code == PAWL_OK ? std::string() : std::string(pawl_last_error())};
}

// A daemon that is gone costs snapshots, never the training. libpawl says it once, and so does
// this. nullptr, and an exception, if warnings are made one.
PyObject* warn_of_lost_daemon(const std::string& text, PyObject* result) {
    if (PyErr_WarnEx(PyExc_RuntimeWarning, text.c_str(), 1) == 0) return result;
    Py_DECREF(result);
    return nullptr;
}

PyObject* actions_or_error(int code, std::uint32_t actions) {
    if (code == PAWL_E_DISCONNECTED)
        return warn_of_lost_daemon(pawl_last_error(), PyLong_FromUnsignedLong(0));
    return code < 0 ? raise_last(code) : PyLong_FromUnsignedLong(actions);
}

PyObject* step(PyObject* self, PyObject* arguments) {
    pawl_progress progress = {};
    progress.struct_size = sizeof progress;
    unsigned long long step = 0;
    unsigned long long epoch = 0;
    if (PyArg_ParseTuple(arguments, "KKd", &step, &epoch, &progress.loss) == 0) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    progress.step = step;
    progress.epoch = epoch;
    std::uint32_t actions = 0;
    const int code = pawl_step(run, &progress, &actions);
    return actions_or_error(code, actions);
}

PyObject* epoch_end(PyObject* self, PyObject* arguments) {
    pawl_progress progress = {};
    progress.struct_size = sizeof progress;
    unsigned long long step = 0;
    unsigned long long epoch = 0;
    PyObject* dict = nullptr;
    if (PyArg_ParseTuple(arguments, "KKdO", &step, &epoch, &progress.loss, &dict) == 0)
        return nullptr;
    std::vector<std::pair<std::string, double>> metrics;
    if (!read_metrics(dict, metrics)) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    progress.step = step;
    progress.epoch = epoch;
    const auto views = views_of(metrics);
    std::uint32_t actions = 0;
    const int code = pawl_epoch_end(run, &progress, views.data(), views.size(), &actions);
    return actions_or_error(code, actions);
}

PyObject* poll(PyObject* self, PyObject* arguments) {
    int phase = PAWL_PHASE_TRAINING;
    if (PyArg_ParseTuple(arguments, "i", &phase) == 0) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    std::uint32_t actions = 0;
    const int code = pawl_poll(run, static_cast<pawl_phase>(phase), &actions);
    return actions_or_error(code, actions);
}

// (image or None, sequence, step, epoch). The image is a read-only view, valid until
// release_resume().
PyObject* resume(PyObject* self, PyObject*) {
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    pawl_resume point = {};
    point.struct_size = sizeof point;
    const int code = pawl_get_resume(run, &point);
    if (code < 0) return raise_last(code);
    PyObject* image = Py_None;
    if (point.image != nullptr) {
        // Python's view is read-only, whatever the pointer's type.
        image = PyMemoryView_FromMemory(const_cast<char*>(static_cast<const char*>(point.image)),
                                        static_cast<Py_ssize_t>(point.image_bytes), kReadable);
        if (image == nullptr) return nullptr;
    } else {
        Py_INCREF(image);
    }
    return Py_BuildValue("NKKK", image, static_cast<unsigned long long>(point.sequence),
                         static_cast<unsigned long long>(point.step),
                         static_cast<unsigned long long>(point.epoch));
}

PyObject* release_resume(PyObject* self, PyObject*) {
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    pawl_release_resume(run);
    Py_RETURN_NONE;
}

// (actions, why there will be no checkpoint or None).
PyObject* request_checkpoint(PyObject* self, PyObject*) {
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    std::uint32_t actions = 0;
    const auto [code, text] = without_gil([&] { return pawl_request_checkpoint(run, &actions); });
    if (code < 0 && code != PAWL_E_DISCONNECTED) return raise(code, text);
    return Py_BuildValue("Iz", actions, code == PAWL_OK ? nullptr : text.c_str());
}

// (address, view) of the image's memory, to be written to; None: no snapshot this time.
PyObject* snapshot_begin(PyObject* self, PyObject* arguments) {
    unsigned long long bytes = 0;
    if (PyArg_ParseTuple(arguments, "K", &bytes) == 0) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    void* image = nullptr;
    const auto [code, text] = without_gil([&] { return pawl_snapshot_begin(run, bytes, &image); });
    if (code == PAWL_E_DISCONNECTED) return warn_of_lost_daemon(text, Py_BuildValue(""));
    if (code < 0) return raise(code, text);
    if (code == PAWL_SKIPPED) Py_RETURN_NONE;
    PyObject* const view = PyMemoryView_FromMemory(static_cast<char*>(image),
                                                   static_cast<Py_ssize_t>(bytes), kWritable);
    if (view == nullptr) return nullptr;
    return Py_BuildValue(
        "KN", static_cast<unsigned long long>(reinterpret_cast<std::uintptr_t>(image)), view);
}

PyObject* snapshot_seal(PyObject* self, PyObject* arguments) {
    PyObject* dict = nullptr;
    if (PyArg_ParseTuple(arguments, "O", &dict) == 0) return nullptr;
    std::vector<std::pair<std::string, double>> metrics;
    if (!read_metrics(dict, metrics)) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    const auto views = views_of(metrics);
    const auto [code, text] =
        without_gil([&] { return pawl_snapshot_seal(run, views.data(), views.size()); });
    if (code == PAWL_E_DISCONNECTED) return warn_of_lost_daemon(text, Py_BuildValue(""));
    if (code < 0) return raise(code, text);
    Py_RETURN_NONE;
}

PyObject* snapshot_abort(PyObject* self, PyObject* arguments) {
    const char* why = nullptr;
    if (PyArg_ParseTuple(arguments, "s", &why) == 0) return nullptr;
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    const int code = pawl_snapshot_abort(run, why);
    if (code < 0) return raise_last(code);
    Py_RETURN_NONE;
}

PyObject* finish(PyObject* self, PyObject*) {
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    std::uint32_t actions = 0;
    const auto [code, text] = without_gil([&] { return pawl_finish(run, &actions); });
    if (code == PAWL_E_DISCONNECTED) return warn_of_lost_daemon(text, PyLong_FromUnsignedLong(0));
    return code < 0 ? raise(code, text) : PyLong_FromUnsignedLong(actions);
}

PyObject* finish_wait(PyObject* self, PyObject*) {
    pawl_run* const run = alive(self);
    if (run == nullptr) return nullptr;
    const auto [code, text] = without_gil([&] { return pawl_finish_wait(run); });
    if (code < 0) return raise(code, text);
    Py_RETURN_NONE;
}

PyObject* request_stop(PyObject* self, PyObject*) {
    if (of(self)->run != nullptr) pawl_request_stop(of(self)->run);
    Py_RETURN_NONE;
}

PyObject* detach(PyObject* self, PyObject*) {
    pawl_detach(of(self)->run);
    of(self)->run = nullptr;
    Py_RETURN_NONE;
}

PyObject* get_rank(PyObject* self, void*) {
    return PyLong_FromLong(pawl_rank(of(self)->run));
}
PyObject* get_world_size(PyObject* self, void*) {
    return PyLong_FromLong(pawl_world_size(of(self)->run));
}
PyObject* get_is_attached(PyObject* self, void*) {
    return PyBool_FromLong(pawl_is_attached(of(self)->run));
}

void destroy(PyObject* self) {
    PyTypeObject* const type = Py_TYPE(self);
    pawl_detach(of(self)->run);
    const auto release = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
    release(self);
    Py_DECREF(reinterpret_cast<PyObject*>(type));
}

PyMethodDef run_methods[] = {
    {"step", step, METH_VARARGS, "step(step, epoch, loss) -> actions"},
    {"epoch_end", epoch_end, METH_VARARGS, "epoch_end(step, epoch, loss, metrics) -> actions"},
    {"poll", poll, METH_VARARGS, "poll(phase) -> actions"},
    {"resume", resume, METH_NOARGS, "resume() -> (image or None, sequence, step, epoch)"},
    {"release_resume", release_resume, METH_NOARGS, "Unmaps the image that was resumed from."},
    {"snapshot_begin", snapshot_begin, METH_VARARGS,
     "snapshot_begin(bytes) -> (address, view) or None"},
    {"snapshot_seal", snapshot_seal, METH_VARARGS, "snapshot_seal(metrics)"},
    {"snapshot_abort", snapshot_abort, METH_VARARGS, "snapshot_abort(why)"},
    {"request_checkpoint", request_checkpoint, METH_NOARGS,
     "request_checkpoint() -> (actions, why not)"},
    {"finish", finish, METH_NOARGS, "finish() -> actions"},
    {"finish_wait", finish_wait, METH_NOARGS, "Blocks until the final checkpoint is durable."},
    {"request_stop", request_stop, METH_NOARGS, "Asks for a snapshot and a stop, as a drain does."},
    {"detach", detach, METH_NOARGS, "Leaves; the run can't be used any more."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef run_properties[] = {
    {"rank", get_rank, nullptr, "this process's rank", nullptr},
    {"world_size", get_world_size, nullptr, "how many ranks there are", nullptr},
    {"is_attached", get_is_attached, nullptr, "whether a daemon supervises this run", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot run_slots[] = {
    {Py_tp_methods, run_methods},
    {Py_tp_getset, run_properties},
    {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
    {0, nullptr},
};

PyType_Spec run_spec = {"pawl._native.Run", sizeof(RunObject), 0, Py_TPFLAGS_DEFAULT, run_slots};
PyObject* run_type = nullptr;

}  // namespace

int add_run_type(PyObject* module) {
    run_type = PyType_FromSpec(&run_spec);
    if (run_type == nullptr) return -1;
    Py_INCREF(run_type);
    return PyModule_AddObject(module, "Run", run_type);
}

PyObject* attach(PyObject*, PyObject* arguments, PyObject* keywords) {
    // The stable ABI of 3.9 takes them without const.
    static char framework[] = "framework";
    static char directory[] = "checkpoint_directory";
    static char job[] = "job";
    static char every_steps[] = "every_steps";
    static char every_epochs[] = "every_epochs";
    static char every_ms[] = "every_ms";
    static char keep_last[] = "keep_last";
    static char* names[] = {framework,    directory, job,       every_steps,
                            every_epochs, every_ms,  keep_last, nullptr};
    pawl_attach_options options = {};
    options.struct_size = sizeof options;
    unsigned long long steps = 0;
    unsigned long long epochs = 0;
    unsigned long long milliseconds = 0;
    unsigned int keep = 0;
    if (PyArg_ParseTupleAndKeywords(arguments, keywords, "|zzzKKKI", names, &options.framework,
                                    &options.checkpoint_directory, &options.job, &steps, &epochs,
                                    &milliseconds, &keep) == 0) {
        return nullptr;
    }
    options.every_steps = steps;
    options.every_epochs = epochs;
    options.every_ms = milliseconds;
    options.keep_last = keep;
    const auto allocate = reinterpret_cast<allocfunc>(
        PyType_GetSlot(reinterpret_cast<PyTypeObject*>(run_type), Py_tp_alloc));
    PyObject* const self = allocate(reinterpret_cast<PyTypeObject*>(run_type), 0);
    if (self == nullptr) return nullptr;
    of(self)->run = nullptr;
    int code = PAWL_OK;
    std::string text;
    {
        const WithoutGil released;
        code = pawl_attach(&options, &of(self)->run);
        if (code < 0) text = pawl_last_error();
    }
    if (code < 0) {
        Py_DECREF(self);
        return raise(code, text);
    }
    return self;
}

}  // namespace pawl::native
