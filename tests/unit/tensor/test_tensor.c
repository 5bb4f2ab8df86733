/* Element types, shapes and element access: packing, half precision, overflow, NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"
#include "tensor/tensor.h"

static void types_have_the_numbers_of_onnx(void **state) {
  (void)state;
  assert_int_equal(QB_DTYPE_F32, 1);
  assert_int_equal(QB_DTYPE_I64, 7);
  assert_int_equal(QB_DTYPE_I4, 22);
  assert_int_equal(qb_dtype_bits(QB_DTYPE_I2), 2);
  assert_int_equal(qb_dtype_bits((qb_dtype)77), 0);
  assert_string_equal(qb_dtype_name(QB_DTYPE_BF16), "bfloat16");
  assert_string_equal(qb_dtype_name(QB_DTYPE_NONE), "unknown");
  assert_true(qb_dtype_is_real(QB_DTYPE_F16) && !qb_dtype_is_integer(QB_DTYPE_F16));
  assert_true(qb_dtype_is_integer(QB_DTYPE_U2) && !qb_dtype_is_real(QB_DTYPE_U2));
  assert_true(!qb_dtype_is_integer(QB_DTYPE_NONE));
}

static void packed_sizes_round_up_and_overflow_is_noticed(void **state) {
  (void)state;
  size_t size;
  assert_true(qb_dtype_size(QB_DTYPE_I4, 5, &size) && size == 3);
  assert_true(qb_dtype_size(QB_DTYPE_I2, 5, &size) && size == 2);
  assert_true(qb_dtype_size(QB_DTYPE_F64, 5, &size) && size == 40);
  assert_true(qb_dtype_size(QB_DTYPE_I2, 0, &size) && size == 0);
  assert_false(qb_dtype_size(QB_DTYPE_F64, SIZE_MAX / 8, &size));
  assert_false(qb_dtype_size(QB_DTYPE_NONE, 1, &size));
}

static void shapes_count_and_print(void **state) {
  (void)state;
  size_t count;
  char text[QB_SHAPE_TEXT];
  qb_shape scalar = {0}, image = QB_SHAPE(1, 3, 224, 224), empty = QB_SHAPE(1, 0, 5);
  qb_shape negative = QB_SHAPE(2, -1), huge = QB_SHAPE(INT64_MAX, 2, 2);
  assert_true(qb_shape_count(&scalar, &count) && count == 1);
  assert_true(qb_shape_count(&image, &count) && count == 150528);
  assert_true(qb_shape_count(&empty, &count) && count == 0);
  assert_false(qb_shape_count(&negative, &count));
  assert_false(qb_shape_count(&huge, &count));
  assert_string_equal(qb_shape_print(&scalar, text), "scalar");
  assert_string_equal(qb_shape_print(&image, text), "1x3x224x224");
  assert_string_equal(qb_shape_print(&negative, text), "2x-1");
  qb_shape longest = {.rank = QB_MAX_RANK};
  for (int i = 0; i < QB_MAX_RANK; i++)
    longest.dims[i] = INT64_MIN;
  assert_int_equal(strlen(qb_shape_print(&longest, text)), 8 * 20 + 7);
  assert_true(qb_shape_equal(&image, &image) && !qb_shape_equal(&image, &empty) && !qb_shape_equal(&scalar, &empty));
}

static void packed_integers_are_read_lowest_bits_first(void **state) {
  (void)state;
  const uint8_t bytes[2] = {0x8f, 0x71};
  qb_view view = {.dtype = QB_DTYPE_U4, .shape = QB_SHAPE(4), .data = bytes};
  const int64_t unsigned_four[] = {15, 8, 1, 7}, signed_four[] = {-1, -8, 1, 7};
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(qb_view_integer(&view, i), unsigned_four[i]);
  view.dtype = QB_DTYPE_I4;
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(qb_view_integer(&view, i), signed_four[i]);
  const int64_t unsigned_two[] = {3, 3, 0, 2, 1, 0, 3, 1}, signed_two[] = {-1, -1, 0, -2, 1, 0, -1, 1};
  view = (qb_view){.dtype = QB_DTYPE_U2, .shape = QB_SHAPE(8), .data = bytes};
  for (size_t i = 0; i < 8; i++)
    assert_int_equal(qb_view_integer(&view, i), unsigned_two[i]);
  view.dtype = QB_DTYPE_I2;
  for (size_t i = 0; i < 8; i++)
    assert_int_equal(qb_view_integer(&view, i), signed_two[i]);
}

static void wide_integers_keep_their_sign(void **state) {
  (void)state;
  const int8_t bytes[] = {-128, 127};
  const uint8_t unsigned_bytes[] = {128, 255};
  const int16_t shorts[] = {-32768, 32767};
  const uint32_t words[] = {0, UINT32_MAX};
  const int64_t longs[] = {INT64_MIN, INT64_MAX};
#define READ(TYPE, ARRAY, INDEX) \
  qb_view_integer(&(qb_view){.dtype = QB_DTYPE_##TYPE, .shape = QB_SHAPE(2), .data = (ARRAY)}, INDEX)
  assert_true(READ(I8, bytes, 0) == -128 && READ(I8, bytes, 1) == 127);
  assert_true(READ(U8, unsigned_bytes, 0) == 128 && READ(U8, unsigned_bytes, 1) == 255);
  assert_true(READ(I16, shorts, 0) == -32768 && READ(I16, shorts, 1) == 32767);
  assert_true(READ(U16, shorts, 0) == 32768);
  assert_true(READ(U32, words, 1) == UINT32_MAX && READ(I32, words, 1) == -1);
  assert_true(READ(I64, longs, 0) == INT64_MIN && READ(I64, longs, 1) == INT64_MAX);
#undef READ
}

/* Every finite half is sign * significand * 2^exponent; checked against that formula for all 65536 patterns. */
static void halves_are_exact(void **state) {
  (void)state;
  for (unsigned pattern = 0; pattern < 65536; pattern++) {
    uint16_t half = (uint16_t)pattern;
    qb_view view = {.dtype = QB_DTYPE_F16, .shape = QB_SHAPE(1), .data = &half};
    int exponent = (int)(pattern >> 10 & 31u), fraction = (int)(pattern & 1023u);
    double expected = exponent == 0 ? fraction * 0x1p-24 : (1 + fraction / 1024.0) * pow(2, exponent - 15);
    double value = qb_view_real(&view, 0);
    if (exponent == 31) {
      assert_true(fraction == 0 ? isinf(value) : isnan(value));
      continue;
    }
    assert_true(fabs(value) == expected);
    assert_int_equal(signbit(value) != 0, pattern >> 15);
  }
}

static void bfloats_are_the_upper_half_of_floats(void **state) {
  (void)state;
  const uint16_t patterns[] = {0x3f80, 0xc049, 0x0001, 0x7f7f};
  const double expected[] = {1, -3.140625, 0x1p-133, 0x1.fep127};
  qb_view view = {.dtype = QB_DTYPE_BF16, .shape = QB_SHAPE(4), .data = patterns};
  for (size_t i = 0; i < 4; i++)
    assert_true(qb_view_real(&view, i) == expected[i]);
}

static void not_a_number_is_named(void **state) {
  (void)state;
  float data[3] = {1, 2, 3};
  qb_error error;
  qb_view view = {.dtype = QB_DTYPE_F32, .shape = QB_SHAPE(3), .data = data};
  assert_int_equal(qb_view_check_finite(&view, "w", &error), QB_OK);
  data[2] = NAN;
  assert_int_equal(qb_view_check_finite(&view, "conv1.weight", &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "conv1.weight"));
  assert_non_null(strstr(error.message, "NaN at element 2"));
  data[0] = -INFINITY;
  assert_int_equal(qb_view_check_finite(&view, "w", &error), QB_ERROR_NUMERIC);
  assert_non_null(strstr(error.message, "Inf at element 0"));
}

static void impossible_tensors_are_errors(void **state) {
  (void)state;
  qb_tensor tensor;
  qb_error error;
  assert_int_equal(qb_tensor_create(&tensor, QB_DTYPE_F32, &QB_SHAPE(2, -3), "weights", &error), QB_ERROR_SHAPE);
  assert_non_null(strstr(error.message, "weights"));
  assert_non_null(strstr(error.message, "2x-3"));
  qb_tensor_free(&tensor);
  assert_int_equal(qb_tensor_create(&tensor, QB_DTYPE_F64, &QB_SHAPE(1LL << 40, 1LL << 17), "w", &error),
                   QB_ERROR_MEMORY);
  assert_int_equal(qb_tensor_create(&tensor, QB_DTYPE_F64, &QB_SHAPE(1LL << 40, 1LL << 22), "w", &error),
                   QB_ERROR_SHAPE);
  assert_int_equal(qb_tensor_create(&tensor, QB_DTYPE_NONE, &QB_SHAPE(1), "w", &error), QB_ERROR_SHAPE);
}

static qb_status create_and_free(void *context, qb_error *error) {
  (void)context;
  qb_tensor tensor;
  qb_status status = qb_tensor_create(&tensor, QB_DTYPE_F32, &QB_SHAPE(2, 3), "t", error);
  qb_tensor_free(&tensor);
  return status;
}

static void failed_allocations_are_errors(void **state) {
  (void)state;
  assert_int_equal(fault_every_allocation(create_and_free, NULL, 10), 1);
}

static void transposed_elements_are_found(void **state) {
  (void)state;
  const qb_shape x = QB_SHAPE(2, 3, 4), expected = QB_SHAPE(4, 2, 3);
  const int32_t permutation[] = {2, 0, 1};
  qb_transposition t = qb_shape_transposition(&x, permutation);
  assert_true(qb_shape_equal(&t.shape, &expected));
  for (int64_t a = 0; a < 4; a++)
    for (int64_t b = 0; b < 2; b++)
      for (int64_t c = 0; c < 3; c++)
        assert_int_equal(qb_transposition_index(&t, (a * 2 + b) * 3 + c), (b * 3 + c) * 4 + a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(types_have_the_numbers_of_onnx),
      cmocka_unit_test(packed_sizes_round_up_and_overflow_is_noticed),
      cmocka_unit_test(shapes_count_and_print),
      cmocka_unit_test(transposed_elements_are_found),
      cmocka_unit_test(packed_integers_are_read_lowest_bits_first),
      cmocka_unit_test(wide_integers_keep_their_sign),
      cmocka_unit_test(halves_are_exact),
      cmocka_unit_test(bfloats_are_the_upper_half_of_floats),
      cmocka_unit_test(not_a_number_is_named),
      cmocka_unit_test(impossible_tensors_are_errors),
      cmocka_unit_test(failed_allocations_are_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
