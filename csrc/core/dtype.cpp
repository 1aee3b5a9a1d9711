#include "core/dtype.hpp"

namespace papilio {

std::size_t elementSize(DType dtype) {
  switch (dtype) {
    case DType::int8:
    case DType::uint8:
    case DType::boolean: return 1;
    case DType::float16:
    case DType::bfloat16:
    case DType::int16: return 2;
    case DType::float32:
    case DType::int32: return 4;
    case DType::float64:
    case DType::int64:
    case DType::complex64: return 8;
    case DType::complex128: return 16;
  }
  return 0;
}

std::string_view name(DType dtype) {
  switch (dtype) {
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::float32: return "float32";
    case DType::float64: return "float64";
    case DType::int8: return "int8";
    case DType::uint8: return "uint8";
    case DType::int16: return "int16";
    case DType::int32: return "int32";
    case DType::int64: return "int64";
    case DType::boolean: return "bool";
    case DType::complex64: return "complex64";
    case DType::complex128: return "complex128";
  }
  return "unknown dtype";
}

std::string_view name(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return "SUM";
    case ReduceOp::avg: return "AVG";
    case ReduceOp::premul_sum: return "PREMUL_SUM";
    case ReduceOp::product: return "PRODUCT";
    case ReduceOp::min: return "MIN";
    case ReduceOp::max: return "MAX";
    case ReduceOp::band: return "BAND";
    case ReduceOp::bor: return "BOR";
    case ReduceOp::bxor: return "BXOR";
  }
  return "unknown op";
}

bool isFloating(DType dtype) {
  return dtype == DType::float16 || dtype == DType::bfloat16 || dtype == DType::float32 ||
         dtype == DType::float64;
}

bool isComplex(DType dtype) { return dtype == DType::complex64 || dtype == DType::complex128; }

bool isInteger(DType dtype) {
  return dtype == DType::int8 || dtype == DType::uint8 || dtype == DType::int16 ||
         dtype == DType::int32 || dtype == DType::int64;
}

bool supports(DType dtype, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return true;
    case ReduceOp::avg:
    case ReduceOp::premul_sum: return isFloating(dtype) || isComplex(dtype);
    case ReduceOp::product: return true;
    case ReduceOp::min:
    case ReduceOp::max: return !isComplex(dtype);
    case ReduceOp::band:
    case ReduceOp::bor:
    case ReduceOp::bxor: return isInteger(dtype) || dtype == DType::boolean;
  }
  return false;
}

}  // namespace papilio
