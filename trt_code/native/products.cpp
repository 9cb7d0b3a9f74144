#include "products.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

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

int panels_of(int outputs) { return (outputs + kColumns - 1) / kColumns; }

// A packed weight and how its products are made: x has one 32-bit value for each `input`.
struct FloatKind {
  using Value = float;
  using Sums = Floats;

  Sums begin(int n) const { return load(bias + n); }
  static Sums add(Sums sums, float x, Floats weights) { return sums + all(x) * weights; }
  Floats end(Sums sums, int) const { return sums; }

  const float* panels;
  const float* bias;
  int inputs;
};

// An input is a word of kTogether integers.
struct IntegerKind {
  using Value = std::int32_t;
  using Sums = Ints;

  Sums begin(int n) const {
    Ints sums{};
    if (offsets) std::memcpy(&sums, offsets + n, sizeof sums);
    return sums;
  }
  static Sums add(Sums sums, std::int32_t x, Ints weights) {
    return add_products(sums, x - Ints{}, weights);
  }
  Floats end(Sums sums, int n) const {
    return __builtin_convertvector(sums, Floats) * load(scales + n) + load(bias + n);
  }

  const std::int32_t *panels, *offsets;  // offsets may be null
  const float *scales, *bias;
  int inputs;
};

template <typename Kind>
typename Kind::Sums weights_at(const typename Kind::Value* from) {
  typename Kind::Sums weights;
  std::memcpy(&weights, from, sizeof weights);
  return weights;
}

// Writes `columns` of the outputs of one row and panel, with any activation.
[[gnu::noinline]] void write_part(Floats left, Floats right, float* out, int columns,
                                  Activation activation) {
  float row[kColumns];
  store(row, left);
  store(row + kLanes, right);
  activate(row, kColumns, activation);
  std::copy_n(row, columns, out);
}

// Writes the sums of one row and panel, whose first output is n.
template <typename Kind>
void finish(const Kind& kind, const typename Kind::Sums (&sums)[2], int n, float* out, int columns,
            Activation activation) {
  Floats left = kind.end(sums[0], n), right = kind.end(sums[1], n + kLanes);
  if (columns < kColumns || activation > Activation::kRelu) {
    write_part(left, right, out, columns, activation);
    return;
  }
  if (activation == Activation::kRelu) {  // NaN stays NaN
    left = left < 0 ? Floats{} : left;
    right = right < 0 ? Floats{} : right;
  }
  store(out, left);
  store(out + kLanes, right);
}

// What a product reads and writes.
template <typename Kind>
struct Product {
  Kind kind;
  const typename Kind::Value* x;
  int x_stride, rows, outputs;
  float* out;
  int out_stride;
  Activation activation;

  const typename Kind::Value* row(int r) const {
    return x + static_cast<std::size_t>(r) * x_stride;
  }
  const typename Kind::Value* panel(int p) const {
    return kind.panels + static_cast<std::size_t>(p) * kind.inputs * kColumns;
  }
  int panels() const { return panels_of(outputs); }
  void put(const typename Kind::Sums (&sums)[2], int r, int p) const {
    const int n = p * kColumns;
    finish(kind, sums, n, out + static_cast<std::size_t>(r) * out_stride + n,
           std::min(kColumns, outputs - n), activation);
  }
};

// Panel p by kM rows from r on; the sums stay in registers.
template <typename Kind, int kM>
void tile(const Product<Kind>& product, int r, int p) {
  typename Kind::Sums sums[kM][2];
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i)
    for (int half = 0; half < 2; ++half)
      sums[i][half] = product.kind.begin(p * kColumns + half * kLanes);
  const typename Kind::Value *panel = product.panel(p), *x = product.row(r);
  const int inputs = product.kind.inputs, x_stride = product.x_stride;
  for (int i = 0; i < kM; ++i) {  // the outputs arrive in the cache while the sums are made
    const float* to =
        product.out + static_cast<std::size_t>(r + i) * product.out_stride + p * kColumns;
    __builtin_prefetch(to, 1);
    __builtin_prefetch(to + kLanes, 1);
  }
  for (int k = 0; k < inputs; ++k, panel += kColumns) {
    const auto left = weights_at<Kind>(panel), right = weights_at<Kind>(panel + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kM; ++i) {
      const typename Kind::Value value = x[i * x_stride + k];
      sums[i][0] = Kind::add(sums[i][0], value, left);
      sums[i][1] = Kind::add(sums[i][1], value, right);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i) product.put(sums[i], r + i, p);
}

// kPanels panels from p on by row r, of which only the inputs at[0..count) are not zero.
template <typename Kind, int kPanels>
void sparse_tile(const Product<Kind>& product, int r, int p, const int* at, int count) {
  typename Kind::Sums sums[kPanels][2];
  for (int i = 0; i < kPanels; ++i)
    for (int half = 0; half < 2; ++half)
      sums[i][half] = product.kind.begin((p + i) * kColumns + half * kLanes);
  const typename Kind::Value *panel = product.panel(p), *x = product.row(r);
  const std::size_t next = static_cast<std::size_t>(product.kind.inputs) * kColumns;
  for (int n = 0; n < count; ++n) {
    const typename Kind::Value *from = panel + static_cast<std::size_t>(at[n]) * kColumns,
                               value = x[at[n]];
#pragma GCC unroll 8
    for (int i = 0; i < kPanels; ++i) {
      sums[i][0] = Kind::add(sums[i][0], value, weights_at<Kind>(from + i * next));
      sums[i][1] = Kind::add(sums[i][1], value, weights_at<Kind>(from + i * next + kLanes));
    }
  }
  for (int i = 0; i < kPanels; ++i) product.put(sums[i], r, p + i);
}

// Panels [first, last) by all rows. Rows go in blocks that stay in the cache while all panels pass.
// The tiles of a block have nearly equal heights: low ones wait for their own sums.
template <typename Kind>
void dense(const Product<Kind>& product, int first, int last) {
  using Tile = decltype(&tile<Kind, 1>);
  constexpr Tile kTiles[] = {tile<Kind, 1>, tile<Kind, 2>,  tile<Kind, 3>,  tile<Kind, 4>,
                             tile<Kind, 5>, tile<Kind, 6>,  tile<Kind, 7>,  tile<Kind, 8>,
                             tile<Kind, 9>, tile<Kind, 10>, tile<Kind, 11>, tile<Kind, 12>};
  constexpr int kLeastTiles = 16, kCached = 1 << 17;  // values of the rows of a block
  const int block = kRows * std::max(kLeastTiles, kCached / (kRows * product.kind.inputs));
  for (int begin = 0; begin < product.rows; begin += block) {
    const int size = std::min(block, product.rows - begin), tiles = (size + kRows - 1) / kRows;
    for (int p = first; p < last; ++p)
      for (int i = 0, r = 0; i < tiles; ++i) {
        const int height = (size - r + tiles - i - 1) / (tiles - i);
        kTiles[height - 1](product, begin + r, p);
        r += height;
      }
  }
}

constexpr int kMostSparse = 4096;  // inputs, for the list of one row

// The bits of a value that make it other than zero: a float's sign does not.
template <typename Value>
constexpr std::int32_t bits_that_count = std::is_same_v<Value, float> ? 0x7fffffff : -1;

// Whether x, a float or a pair of integers, is not zero. Integers are faster to compare than
// floats.
template <typename Value>
bool counts(Value x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & bits_that_count<Value>;
}

// All panels by rows that are mostly zero. The sums are equal, since x * 0 changes none.
template <typename Kind>
void sparse(const Product<Kind>& product) {
  const int panels = product.panels();
  int at[kMostSparse];
  for (int r = 0; r < product.rows; ++r) {
    const typename Kind::Value* x = product.row(r);
    const auto lanes = [x](int k) {
      Ints values;
      std::memcpy(&values, x + k, sizeof values);
      return (values & bits_that_count<typename Kind::Value>) != 0;
    };
    const int count =
        list_where(product.kind.inputs, at, lanes, [x](int k) { return counts(x[k]); });
    int p = 0;
    for (; p + 4 <= panels; p += 4) sparse_tile<Kind, 4>(product, r, p, at, count);
    for (; p < panels; ++p) sparse_tile<Kind, 1>(product, r, p, at, count);
  }
}

constexpr double kMostNonzero = kLanes == 16 ? 0.22 : 0.15;  // above it, dense() is faster

// Whether few enough inputs are not zero: after a ReLU, a trained network has a tenth or less. A
// sample of the rows decides.
template <typename Kind>
bool is_sparse(const Product<Kind>& product) {
  if (product.kind.inputs > kMostSparse) return false;
  constexpr int kSample = 64;
  const int step = (product.rows + kSample - 1) / kSample;
  int rows = 0, found = 0;
  for (int r = 0; r < product.rows; r += step, ++rows) {
    const typename Kind::Value* x = product.row(r);
    int count = 0;
    for (int k = 0; k < product.kind.inputs; ++k) count += counts(x[k]);
    found += count;
  }
  return found <= kMostNonzero * product.kind.inputs * rows;
}

// The whole product; the threads of `team` share the panels.
template <typename Kind>
void multiply_all(const Product<Kind>& product, Team* team) {
  if (is_sparse(product)) {
    sparse(product);
    return;
  }
  const double operations = 2.0 * product.rows * product.kind.inputs * product.outputs;
  share(team, product.panels(), operations,
        [&](int first, int last) { dense(product, first, last); });
}

}  // namespace

Weight::Weight(const float* weight, const float* bias, int outputs, int inputs)
    : outputs_(outputs), inputs_(inputs) {
  const std::size_t columns = static_cast<std::size_t>(panels_of(outputs)) * kColumns;
  panels_.assign(columns * inputs, 0.f);
  bias_.assign(columns, 0.f);
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
  const FloatKind kind{panels_.data(), bias_.data(), inputs_};
  const Product<FloatKind> all{kind, x, x_stride, rows, outputs_, out, out_stride, activation};
  multiply_all(all, team);
}

IntegerWeight::IntegerWeight(const std::int8_t* weight, const float* scales, const float* bias,
                             int outputs, int inputs, float x_scale)
    : outputs_(outputs),
      inputs_(inputs),
      words_((inputs + kTogether - 1) / kTogether),
      x_scale_(x_scale) {
  const std::size_t columns = static_cast<std::size_t>(panels_of(outputs)) * kColumns;
  panels_.assign(columns * words_ * kTogether, 0);
  offsets_.assign(columns, 0);
  scales_.assign(columns, 0.f);
  bias_.assign(columns, 0.f);
  for (int n = 0; n < outputs; ++n) {
    Integer* to = panels_.data() +
                  static_cast<std::size_t>(n / kColumns) * words_ * kTogether * kColumns +
                  n % kColumns * kTogether;
    std::uint32_t sum = 0;  // it may overflow, as the sums of products do
    for (int k = 0; k < inputs; ++k) {
      const std::int8_t value = weight[static_cast<std::size_t>(n) * inputs + k];
      to[k / kTogether * kTogether * kColumns + k % kTogether] = value;
      sum += value;
    }
    offsets_[n] = static_cast<std::int32_t>(-kOffset * sum);
    scales_[n] = x_scale * scales[n];
    if (bias) bias_[n] = bias[n];
  }
}

void IntegerWeight::multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                             Activation activation, Team* team, float* scratch) const {
  std::int32_t* words = reinterpret_cast<std::int32_t*>(scratch);
  bool negative = false;
  for (int r = 0; r < rows; ++r) {
    std::int32_t* row = words + static_cast<std::size_t>(r) * words_;
    row[words_ - 1] = 0;
    negative |= round_row(x + static_cast<std::size_t>(r) * x_stride, inputs_, x_scale_,
                          reinterpret_cast<Integer*>(row));
  }
  const bool shifted = kNeedsUnsigned && negative;
  if (shifted) make_unsigned(words, static_cast<std::size_t>(rows) * words_);
  const IntegerKind kind{reinterpret_cast<const std::int32_t*>(panels_.data()),
                         shifted ? offsets_.data() : nullptr, scales_.data(), bias_.data(), words_};
  multiply_all(
      Product<IntegerKind>{kind, words, words_, rows, outputs_, out, out_stride, activation}, team);
}

}  // namespace lite::native
