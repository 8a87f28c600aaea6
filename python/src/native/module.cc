// pawl._native: the module's table and its exception. See native.h.
#include "client/error_code.h"
#include "native.h"
#include "pawl/pawl.h"

namespace pawl::native {

PyObject* error_class = nullptr;

namespace {

PyObject* version(PyObject*, PyObject*) {
    return PyUnicode_FromString(pawl_version());
}

PyMethodDef methods[] = {
    {"attach", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(attach)),
     METH_VARARGS | METH_KEYWORDS, "Attach to pawld, or begin a standalone run."},
    {"version", version, METH_NOARGS, "The version of libpawl."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pawl._native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyObject* raise(int code, const std::string& text) {
    PyObject* const words =
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
    if (words == nullptr) return nullptr;
    PyObject* const exception = PyObject_CallFunctionObjArgs(error_class, words, nullptr);
    Py_DECREF(words);
    if (exception == nullptr) return nullptr;
    PyObject* const number = PyLong_FromLong(code);
    if (number != nullptr && PyObject_SetAttrString(exception, "code", number) == 0)
        PyErr_SetObject(error_class, exception);
    Py_XDECREF(number);
    Py_DECREF(exception);
    return nullptr;
}

PyObject* raise(const Error& error) {
    return raise(client::code_of(error.kind()), error.text());
}

PyObject* raise_last(int code) {
    return raise(code, pawl_last_error());
}

}  // namespace pawl::native

PyMODINIT_FUNC PyInit__native() {
    using namespace pawl::native;  // C's entry point, in no namespace
    PyObject* const module = PyModule_Create(&definition);
    if (module == nullptr) return nullptr;
    error_class = PyErr_NewExceptionWithDoc("pawl.PawlError",
                                            "A call that failed: what was tried, on what, and why. "
                                            "`code` is one of pawl.h's pawl_error.",
                                            PyExc_RuntimeError, nullptr);
    if (error_class == nullptr || PyModule_AddFunctions(module, image_methods) != 0 ||
        add_run_type(module) != 0) {
        Py_DECREF(module);
        return nullptr;
    }
    Py_INCREF(error_class);
    if (PyModule_AddObject(module, "PawlError", error_class) != 0) {
        Py_DECREF(error_class);
        Py_DECREF(module);
        return nullptr;
    }
    return module;
}
