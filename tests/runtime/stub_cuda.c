// A CUDA driver without a GPU: loads anything, and keeps what the last launch was given.
#include "cuda.h"
#include <string.h>

#define API __attribute__((visibility("default"))) CUresult

unsigned long long launched[8];   // grid x y z, block x, shared bytes, stream, function, launches
unsigned long long arguments[256];
int argument_bytes[256];          // the size of each, set by the test; 0 ends the list

API cuCtxGetCurrent(CUcontext *context) { *context = (CUcontext)1; return CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }
API cuCtxGetLimit(size_t *value, CUlimit limit) { *value = 0; return CUDA_SUCCESS; }
API cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }
API cuInit(unsigned flags) { return CUDA_SUCCESS; }
API cuCtxGetDevice(CUdevice *device) { *device = 0; return CUDA_SUCCESS; }
API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
API cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }
API cuDeviceGetCount(int *count) { *count = 1; return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = 227 * 1024;
  return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  *context = (CUcontext)1;
  return CUDA_SUCCESS;
}
API cuGetErrorString(CUresult error, const char **text) { *text = "error"; return CUDA_SUCCESS; }
API cuModuleLoadData(CUmodule *module, const void *image) {
  static char modules;
  *module = (CUmodule)(&modules);
  return CUDA_SUCCESS;
}
API cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
API cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  static unsigned long long functions = 1000;
  *function = (CUfunction)(++functions);
  return CUDA_SUCCESS;
}
API cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return CUDA_SUCCESS;
}
API cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) { return CUDA_SUCCESS; }
API cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  *(CUdeviceptr *)data = pointer;
  return CUDA_SUCCESS;
}
API cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction function, void **params, void **extra) {
  unsigned long long config[] = {c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,
    c->sharedMemBytes, (unsigned long long)c->hStream, (unsigned long long)function, launched[7] + 1};
  memcpy(launched, config, sizeof config);
  memset(arguments, 0, sizeof arguments);
  for (int i = 0; argument_bytes[i]; i++) memcpy(&arguments[i], params[i], argument_bytes[i]);
  return CUDA_SUCCESS;
}
