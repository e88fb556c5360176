// Models and states as Python holds them.
#pragma once

#include <exception>
#include <memory>

#include "arrays.h"
#include "model.h"

namespace ghost {

inline unsigned forks = 0;  // of this process, counted in the child

// A model, which after a fork has lost its threads: the child must neither wait for them nor join them.
class PyModel {
 public:
  explicit PyModel(std::unique_ptr<Model> model) : model_(std::move(model)), forks_(forks) {}
  ~PyModel() {
    if (lost_threads()) static_cast<void>(model_.release());
  }
  PyModel(const PyModel&) = delete;
  PyModel& operator=(const PyModel&) = delete;

  Model* operator->() const { return model_.get(); }
  Model* running() const {
    if (lost_threads()) {
      throw std::runtime_error("The process was forked, and a model's threads do not survive that; load it again.");
    }
    return model_.get();
  }

 private:
  bool lost_threads() const { return forks_ != forks && model_->threads() > 1; }

  std::unique_ptr<Model> model_;
  unsigned forks_;
};

using ModelPointer = std::shared_ptr<PyModel>;

inline void throw_runtime_error(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

struct PyState {
  ModelPointer model;
  std::unique_ptr<State> state;
};

// Runs Python's signal handlers now and then; an exception (KeyboardInterrupt) stops the call.
struct SignalCheck {
  std::exception_ptr error;

  static bool keep_going(void* context) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return true;
    static_cast<SignalCheck*>(context)->error = std::make_exception_ptr(py::error_already_set());
    return false;
  }
};

// step, generate, generate_batch and judge (streams.cpp).
void bind_streams(py::class_<PyModel, ModelPointer>* model);

}  // namespace ghost
