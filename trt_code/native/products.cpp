#include "products.h"

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace lite::native {
namespace {

constexpr int kColumns = 2 * kLanes;          // outputs of a panel
constexpr int kRows = kLanes == 16 ? 12 : 6;  // rows whose sums fit into the registers

void activate(float* x, int n, Activation activation) {
  switch (activation) {
    case Activation::kLinear:
      return;
    case Activation::kRelu:
      for (int i = 0; i < n; ++i) x[i] = x[i] < 0 ? 0 : x[i];  // NaN stays NaN
      return;
    case Activation::kGelu:
      for (int i = 0; i < n; ++i) x[i] *= 0.5f * (1 + std::erf(x[i] * 0.70710678f));
      return;
    case Activation::kGeluTanh:
      for (int i = 0; i < n; ++i)
        x[i] *= 0.5f * (1 + std::tanh(0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
      return;
    case Activation::kTanh:
      for (int i = 0; i < n; ++i) x[i] = std::tanh(x[i]);
      return;
    case Activation::kSwish:
      for (int i = 0; i < n; ++i) x[i] /= 1 + exp_of(-x[i]);
      return;
  }
}

// One panel by kM rows; the sums stay in registers.
template <int kM>
void tile(const float* x, int x_stride, const float* panel, const float* bias, int inputs,
          float* out, int out_stride, int columns, Activation activation) {
  Floats sums[kM][2];
  for (int i = 0; i < kM; ++i) {
    sums[i][0] = load(bias);
    sums[i][1] = load(bias + kLanes);
  }
  for (int k = 0; k < inputs; ++k, panel += kColumns) {
    const Floats left = load(panel), right = load(panel + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kM; ++i) {
      const Floats value = all(x[i * x_stride + k]);
      sums[i][0] += value * left;
      sums[i][1] += value * right;
    }
  }
  for (int i = 0; i < kM; ++i) {
    float row[kColumns];
    store(row, sums[i][0]);
    store(row + kLanes, sums[i][1]);
    activate(row, kColumns, activation);
    std::copy_n(row, columns, out + i * out_stride);
  }
}

using Tile = decltype(&tile<1>);
constexpr Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                           tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};

}  // namespace

Weight::Weight(const float* weight, const float* bias, int outputs, int inputs)
    : outputs_(outputs), inputs_(inputs) {
  const int panels = (outputs + kColumns - 1) / kColumns;
  panels_.assign(static_cast<std::size_t>(panels) * inputs * kColumns, 0.f);
  bias_.assign(static_cast<std::size_t>(panels) * kColumns, 0.f);
  for (int n = 0; n < outputs; ++n) {
    float* to =
        panels_.data() + static_cast<std::size_t>(n / kColumns) * inputs * kColumns + n % kColumns;
    for (int k = 0; k < inputs; ++k)
      to[k * kColumns] = weight[static_cast<std::size_t>(n) * inputs + k];
    if (bias) bias_[n] = bias[n];
  }
}

void Weight::multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                      Activation activation) const {
  const int tiles = (rows + kRows - 1) / kRows;
  for (int n = 0; n < outputs_; n += kColumns) {
    const float* panel = panels_.data() + static_cast<std::size_t>(n) * inputs_;
    const int columns = std::min(kColumns, outputs_ - n);
    int r = 0;
    for (int i = 0; i < tiles;
         ++i) {  // tiles of nearly equal heights: low ones wait for their own sums
      const int height = (rows - r + tiles - i - 1) / (tiles - i);
      kTiles[height - 1](
          x + static_cast<std::size_t>(r) * x_stride, x_stride, panel, bias_.data() + n, inputs_,
          out + static_cast<std::size_t>(r) * out_stride + n, out_stride, columns, activation);
      r += height;
    }
  }
}

}  // namespace lite::native
