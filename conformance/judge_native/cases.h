// Implementations of components that have a file of their own.
#pragma once

#include "components.h"

namespace judge {

Outputs strided_attention(const ghost::Kernels& kernels, const Case& vectors);
Outputs choose_byte(const ghost::Kernels& kernels, const Case& vectors);

}  // namespace judge
