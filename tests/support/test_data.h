/* Networks and images that are too large for the project: tests that need them skip without them. */
#ifndef QB_SUPPORT_TEST_DATA_H
#define QB_SUPPORT_TEST_DATA_H

/* The path of `name` ("imagenet/squeezenet11_imagenet.onnx") in the folder that the environment variable QBOUND_DATA
 * names, else in ../shared/data beside the source tree. Where it does not exist the calling test is skipped, and the
 * name is printed. The result lives until the process ends. */
const char *test_data(const char *name);

/* The same for tests that go on without it: NULL, and nothing is printed. */
const char *test_data_or_null(const char *name);

#endif
