#include "expressions.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace host {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

int64_t apply(DimensionOperation operation, int64_t a, int64_t b) {
  const bool divides =
      operation == DimensionOperation::kFLOOR_DIV || operation == DimensionOperation::kCEIL_DIV;
  if (divides && b == 0) throw std::runtime_error("an output shape divides by zero");
  const int64_t quotient = divides ? a / b : 0;
  const bool inexact = divides && a % b != 0;
  switch (operation) {
    case DimensionOperation::kSUM:
      return a + b;
    case DimensionOperation::kPROD:
      return a * b;
    case DimensionOperation::kMAX:
      return std::max(a, b);
    case DimensionOperation::kMIN:
      return std::min(a, b);
    case DimensionOperation::kSUB:
      return a - b;
    case DimensionOperation::kEQUAL:
      return a == b ? 1 : 0;
    case DimensionOperation::kLESS:
      return a < b ? 1 : 0;
    case DimensionOperation::kFLOOR_DIV:
      return quotient - (inexact && ((a < 0) != (b < 0)) ? 1 : 0);
    case DimensionOperation::kCEIL_DIV:
      return quotient + (inexact && ((a < 0) == (b < 0)) ? 1 : 0);
  }
  throw std::runtime_error("an output shape uses an unknown operation");
}

class Expression final : public IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Expression(int64_t value) : constant_(true), value_(value) { mImpl = this; }
  explicit Expression(Dimension dimension) : dimension_(dimension) { mImpl = this; }
  Expression(DimensionOperation operation, const Expression& first, const Expression& second)
      : operation_(operation), first_(&first), second_(&second) {
    mImpl = this;
  }

  int64_t evaluate(const std::vector<nvinfer1::Dims>& inputs) const {
    if (constant_) return value_;
    if (first_ == nullptr) return inputs.at(dimension_.input).d[dimension_.axis];
    return apply(operation_, first_->evaluate(inputs), second_->evaluate(inputs));
  }

 private:
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override {
    return constant_ ? value_ : std::numeric_limits<int64_t>::min();
  }
  bool isSizeTensor() const override { return false; }

  bool constant_ = false;
  int64_t value_ = 0;
  Dimension dimension_{};
  DimensionOperation operation_{};
  const Expression* first_ = nullptr;
  const Expression* second_ = nullptr;
};

}  // namespace

class Expressions::Builder final : public nvinfer1::IExprBuilder,
                                   private nvinfer1::apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }

  template <typename... Args>
  const Expression* add(Args&&... args) {
    made_.push_back(std::make_unique<Expression>(args...));
    return made_.back().get();
  }
  const Expression* own(const IDimensionExpr* expression) const {
    for (const auto& made : made_) {
      if (made.get() == expression) return made.get();
    }
    return nullptr;
  }

 private:
  const IDimensionExpr* constant(int64_t value) override { return add(value); }
  const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    const Expression* a = own(&first);
    const Expression* b = own(&second);
    return a != nullptr && b != nullptr ? add(operation, *a, *b) : nullptr;
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                          const IDimensionExpr&) override {
    return nullptr;  // outputs with data-dependent sizes are not supported here
  }

  std::vector<std::unique_ptr<Expression>> made_;
};

Expressions::Expressions() : builder_(std::make_unique<Builder>()) {}
Expressions::~Expressions() = default;

nvinfer1::IExprBuilder& Expressions::builder() { return *builder_; }

const IDimensionExpr* Expressions::constant(int64_t value) { return builder_->add(value); }

const IDimensionExpr* Expressions::dynamic(Dimension dimension) { return builder_->add(dimension); }

int64_t Expressions::evaluate(const IDimensionExpr* expression,
                              const std::vector<nvinfer1::Dims>& inputs) const {
  const Expression* own = builder_->own(expression);
  if (own == nullptr) {
    throw std::runtime_error("an output shape holds an expression that the builder did not make");
  }
  return own->evaluate(inputs);
}

}  // namespace host
