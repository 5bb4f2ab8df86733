/* Every supported operator, one line each: identifier, ONNX name, rule family.
 *
 * A module expands this list into its own table (`#define QB_OP(ID, NAME, FAMILY) [QB_OP_##ID] = run_##FAMILY,`), so
 * an operator without a rule in some module does not compile. Operators of one family differ only in attributes that
 * the importer has already normalised:
 *   gemm       weight in canonical (OUT, IN) layout applied to the last axis; MatMul is Gemm without bias
 *   reshape    the elements in the same order under another shape
 *   average    a mean over a window or over all spatial positions
 *   add, mul   two tensors or a tensor and a constant, ONNX broadcasting; Sub and Div are told apart by the op
 * Include without a guard: define QB_OP first; it is undefined at the end. */
QB_OP(CONV, "Conv", conv)
QB_OP(CONV_TRANSPOSE, "ConvTranspose", conv_transpose)
QB_OP(GEMM, "Gemm", gemm)
QB_OP(MATMUL, "MatMul", gemm)
QB_OP(BATCH_NORM, "BatchNormalization", batch_norm)
QB_OP(RELU, "Relu", relu)
QB_OP(LEAKY_RELU, "LeakyRelu", leaky_relu)
QB_OP(PRELU, "PRelu", prelu)
QB_OP(CLIP, "Clip", clip)
QB_OP(SIGMOID, "Sigmoid", sigmoid)
QB_OP(HARD_SIGMOID, "HardSigmoid", hard_sigmoid)
QB_OP(HARD_SWISH, "HardSwish", hard_swish)
QB_OP(TANH, "Tanh", tanh)
QB_OP(SOFTMAX, "Softmax", softmax)
QB_OP(MAX_POOL, "MaxPool", max_pool)
QB_OP(AVERAGE_POOL, "AveragePool", average)
QB_OP(GLOBAL_AVERAGE_POOL, "GlobalAveragePool", average)
QB_OP(REDUCE_MEAN, "ReduceMean", average)
QB_OP(ADD, "Add", add)
QB_OP(SUB, "Sub", add)
QB_OP(MUL, "Mul", mul)
QB_OP(DIV, "Div", mul)
QB_OP(CONCAT, "Concat", concat)
QB_OP(PAD, "Pad", pad)
QB_OP(TRANSPOSE, "Transpose", transpose)
QB_OP(FLATTEN, "Flatten", reshape)
QB_OP(RESHAPE, "Reshape", reshape)
QB_OP(SQUEEZE, "Squeeze", reshape)
QB_OP(UNSQUEEZE, "Unsqueeze", reshape)
QB_OP(IDENTITY, "Identity", reshape)
QB_OP(DROPOUT, "Dropout", reshape)
QB_OP(QUANTIZE_LINEAR, "QuantizeLinear", quantize_linear)
QB_OP(DEQUANTIZE_LINEAR, "DequantizeLinear", dequantize_linear)
#undef QB_OP
