/* The table of networks. */
#include "reproduce/study.h"

#include <stdio.h>
#include <string.h>

#define IMAGENET_NORM "mean=0.485,0.456,0.406:std=0.229,0.224,0.225"
#define TINY "resize=128:crop=128:scale=255:" IMAGENET_NORM
#define IMAGENET "imagenet-224", "imagenet/validation"
#define CIFAR "cifar10/test_1000.bin"
#define CIFAR_TRAIN "cifar10/train_2000.bin"
#define MNIST "unit", "mnist/t10k-images-idx3-ubyte.gz", 0, 2000, "mnist/train-images-idx3-ubyte.gz"

/* The numbers of images keep `reproduce all` below half an hour on two cores. */
static const qb_study studies[QB_STUDY_COUNT] = {
    {"ResNet-18 (ImageNet)", "ResNet-18", "imagenet/resnet18_pqf_imagenet_bn.onnx.gz", IMAGENET, 0, 300,
     "imagenet/calibration", 0},
    {"ResNet-50 (ImageNet)", "ResNet-50", "imagenet/resnet50_pqf_imagenet_bn.onnx.gz", IMAGENET, 0, 100,
     "imagenet/calibration", 0},
    {"MobileNetV2 (ImageNet)", "MobileNetV2", "imagenet/mobilenetv2_imagenet_folded.onnx", IMAGENET, 0, 400,
     "imagenet/calibration", 0},
    {"SqueezeNet 1.1 (ImageNet)", "SqueezeNet", "imagenet/squeezenet11_imagenet.onnx", IMAGENET, 0, 400,
     "imagenet/calibration", 0},
    {"ResNet-18 (Tiny ImageNet)", "R18 Tiny", "tiny-imagenet/resnet18_ktb_tinyimagenet_bn.onnx.gz", TINY,
     "tiny-imagenet/validation", 500, 1000, "tiny-imagenet/validation", 0},
    {"MobileNetV2 (Tiny ImageNet)", "MNv2 Tiny", "tiny-imagenet/mobilenetv2_gluon_tinyimagenet_bn.onnx", TINY,
     "tiny-imagenet/validation", 500, 2500, "tiny-imagenet/validation", 0},
    {"ResNet-20 (CIFAR-10)", "ResNet-20", "cifar10/resnet20_cifar10_bn.onnx", "imagenet-norm", CIFAR, 0, 1000,
     CIFAR_TRAIN, 0},
    {"ResNet-56 (CIFAR-10)", "ResNet-56", "cifar10/resnet56_cifar10_bn.onnx", "imagenet-norm", CIFAR, 0, 1000,
     CIFAR_TRAIN, 0},
    {"ResNet-8 (CIFAR-10)", "ResNet-8", "cifar10/resnet8_mlperftiny_cifar10_bn.onnx", "raw", CIFAR, 0, 1000,
     CIFAR_TRAIN, 0},
    {"LeNet (MNIST)", "LeNet", "mnist/lenet_mnist.onnx", MNIST, 0},
    {"perceptron of 5 layers (MNIST)", "MLP 5", "mnist/mlp5_mnist.onnx", MNIST, 5},
    {"perceptron of 7 layers (MNIST)", "MLP 7", "mnist/mlp7_mnist.onnx", MNIST, 7},
    {"perceptron of 9 layers (MNIST)", "MLP 9", "mnist/mlp9_mnist.onnx", MNIST, 9},
    {"perceptron of 11 layers (MNIST)", "MLP 11", "mnist/mlp11_mnist.onnx", MNIST, 11},
};

const qb_study *qb_study_get(qb_study_id id) { return &studies[id]; }

void qb_study_how(const qb_study *study, bool images, const char *data, const char *path, char *text, size_t size) {
  if (images && strncmp(path + strlen(data), "/mnist", 6) == 0)
    snprintf(text, size, "put the four MNIST idx files there (docs/reproduce.md)");
  else if (images)
    snprintf(text, size,
             "a CIFAR-10 binary file, or a folder of images with labels.txt, one \"file class\" a line "
             "(docs/reproduce.md)");
  else if (study->depth > 0)
    snprintf(text, size, "train it: qbound train-mlp --data %s/mnist/train-images-idx3-ubyte.gz --layers %d -o %s",
             data, study->depth, path);
  else
    snprintf(text, size, "export %s with its BatchNorm by torch.onnx.export, opset 13 (docs/reproduce.md)",
             study->name);
}
