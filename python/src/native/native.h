// What the files of pawl._native share: errors and arguments between C++ and Python's stable ABI
// (3.9).
//
// The module holds what Python can't do at speed: the calls of pawl.h, and images (laying out,
// copying, writing, verifying) with the GIL released. It decides nothing; pawl/*.py does.
#pragma once

// First of all: it sets macros for the system's headers.
#define PY_SSIZE_T_CLEAN
#include "base/result.h"

#include <Python.h>

#include <string>

namespace pawl::native {

// The class pawl.PawlError, made with the module: `.code` is a pawl_error.
extern PyObject* error_class;

// Sets the exception; always nullptr.
PyObject* raise(int code, const std::string& text);
PyObject* raise(const Error& error);
// Of the failed call of libpawl.
PyObject* raise_last(int code);

// Lets other Python threads run while it lives.
class WithoutGil {
public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() { PyEval_RestoreThread(state_); }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

private:
    PyThreadState* state_;
};

extern PyMethodDef image_methods[];
PyObject* attach(PyObject* module, PyObject* arguments, PyObject* keywords);
int add_run_type(PyObject* module);

}  // namespace pawl::native
