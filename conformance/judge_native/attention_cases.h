// The component strided_attention on the native core.
#pragma once

#include "components.h"

namespace judge {

Outputs strided_attention(const ghost::Kernels& kernels, const Case& vectors);

}  // namespace judge
