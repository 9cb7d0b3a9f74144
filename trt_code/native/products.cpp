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

// The same on pairs of 16-bit integers; x has x_stride pairs between rows.
template <int kM>
void integer_tile(const std::int32_t* x, int x_stride, const std::int16_t* panel,
                  const float* scales, const float* bias, int pairs, float* out, int out_stride,
                  int columns, Activation activation) {
  Ints sums[kM][2] = {};
  for (int k = 0; k < pairs; ++k, panel += 2 * kColumns) {
    Ints left, right;
    std::memcpy(&left, panel, sizeof left);
    std::memcpy(&right, panel + kColumns, sizeof right);
#pragma GCC unroll 16
    for (int i = 0; i < kM; ++i) {
      const Ints value = x[i * x_stride + k] - Ints{};
      sums[i][0] = add_pairs(sums[i][0], value, left);
      sums[i][1] = add_pairs(sums[i][1], value, right);
    }
  }
  for (int i = 0; i < kM; ++i) {
    float row[kColumns];
    for (int half = 0; half < 2; ++half)
      store(row + half * kLanes,
            __builtin_convertvector(sums[i][half], Floats) * load(scales + half * kLanes) +
                load(bias + half * kLanes));
    activate(row, kColumns, activation);
    std::copy_n(row, columns, out + i * out_stride);
  }
}

using Tile = decltype(&tile<1>);
constexpr Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                           tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};

using IntegerTile = decltype(&integer_tile<1>);
constexpr IntegerTile kIntegerTiles[] = {integer_tile<1>,  integer_tile<2>,  integer_tile<3>,
                                         integer_tile<4>,  integer_tile<5>,  integer_tile<6>,
                                         integer_tile<7>,  integer_tile<8>,  integer_tile<9>,
                                         integer_tile<10>, integer_tile<11>, integer_tile<12>};

// Calls multiply(first output, first row, rows) for all tiles; the threads of `team` share the
// panels. Rows go in blocks that stay in the cache while all panels pass. The tiles of a block have
// nearly equal heights: low ones wait for their own sums.
template <typename Multiply>
void in_tiles(int outputs, int inputs, int rows, Team* team, Multiply multiply) {
  constexpr int kBlock = 16 * kRows;
  const int panels = (outputs + kColumns - 1) / kColumns;
  share(team, panels, 2.0 * rows * inputs * outputs, [&](int first, int last) {
    for (int begin = 0; begin < rows; begin += kBlock) {
      const int size = std::min(kBlock, rows - begin), tiles = (size + kRows - 1) / kRows;
      for (int panel = first; panel < last; ++panel)
        for (int i = 0, r = 0; i < tiles; ++i) {
          const int height = (size - r + tiles - i - 1) / (tiles - i);
          multiply(panel * kColumns, begin + r, height);
          r += height;
        }
    }
  });
}

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
                      Activation activation, Team* team) const {
  in_tiles(outputs_, inputs_, rows, team, [&](int n, int r, int height) {
    kTiles[height - 1](x + static_cast<std::size_t>(r) * x_stride, x_stride,
                       panels_.data() + static_cast<std::size_t>(n) * inputs_, bias_.data() + n,
                       inputs_, out + static_cast<std::size_t>(r) * out_stride + n, out_stride,
                       std::min(kColumns, outputs_ - n), activation);
  });
}

IntegerWeight::IntegerWeight(const std::int8_t* weight, const float* scales, const float* bias,
                             int outputs, int inputs, float x_scale)
    : outputs_(outputs), inputs_(inputs), pairs_((inputs + 1) / 2), x_scale_(x_scale) {
  const std::size_t columns =
      static_cast<std::size_t>((outputs + kColumns - 1) / kColumns) * kColumns;
  panels_.assign(columns * pairs_ * 2, 0);
  scales_.assign(columns, 0.f);
  bias_.assign(columns, 0.f);
  for (int n = 0; n < outputs; ++n) {
    std::int16_t* to = panels_.data() +
                       static_cast<std::size_t>(n / kColumns) * pairs_ * 2 * kColumns +
                       n % kColumns * 2;
    for (int k = 0; k < inputs; ++k)
      to[k / 2 * 2 * kColumns + k % 2] = weight[static_cast<std::size_t>(n) * inputs + k];
    scales_[n] = x_scale * scales[n];
    if (bias) bias_[n] = bias[n];
  }
}

void IntegerWeight::multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                             Activation activation, Team* team, float* scratch) const {
  for (int r = 0; r < rows; ++r) {
    const float* from = x + static_cast<std::size_t>(r) * x_stride;
    std::int16_t* to =
        reinterpret_cast<std::int16_t*>(scratch + static_cast<std::size_t>(r) * pairs_);
    for (int k = 0; k < inputs_; ++k) {
      const float rounded = __builtin_rintf(from[k] / x_scale_);
      to[k] = static_cast<std::int16_t>(rounded < -128 ? -128 : rounded > 127 ? 127 : rounded);
    }
    if (inputs_ % 2) to[inputs_] = 0;
  }
  const std::int32_t* pairs = reinterpret_cast<const std::int32_t*>(scratch);
  in_tiles(outputs_, inputs_, rows, team, [&](int n, int r, int height) {
    kIntegerTiles[height - 1](pairs + static_cast<std::size_t>(r) * pairs_, pairs_,
                              panels_.data() + static_cast<std::size_t>(n) * pairs_ * 2,
                              scales_.data() + n, bias_.data() + n, pairs_,
                              out + static_cast<std::size_t>(r) * out_stride + n, out_stride,
                              std::min(kColumns, outputs_ - n), activation);
  });
}

}  // namespace lite::native
