/* Stand-ins for the CUDA runtime and driver calls that fake CUDA tensors, device guards and torch.cuda make, so that
   code can be traced and compiled for a GPU on a machine without one. Preloaded by bench/fake_device.py; every call
   succeeds and nothing runs. Memory is host memory: whoever launched a kernel on it would crash, as it should. */
#include <stdlib.h>
#include <string.h>

#define SUCCEEDS(name) int name(void) { return 0; }
#define RETURNS(name, type, value) int name(type *out) { *out = (type)(value); return 0; }

SUCCEEDS(cudaDeviceSynchronize)
SUCCEEDS(cudaEventDestroy)
SUCCEEDS(cudaEventQuery)
SUCCEEDS(cudaEventRecord)
SUCCEEDS(cudaEventSynchronize)
SUCCEEDS(cudaFree)
SUCCEEDS(cudaGetLastError)
SUCCEEDS(cudaPeekAtLastError)
SUCCEEDS(cudaSetDevice)
SUCCEEDS(cudaStreamQuery)
SUCCEEDS(cudaStreamSynchronize)
SUCCEEDS(cudaStreamWaitEvent)
SUCCEEDS(cudaThreadExchangeStreamCaptureMode)
SUCCEEDS(cuInit)
RETURNS(cudaDeviceCanAccessPeer, int, 0)
RETURNS(cudaDeviceGetAttribute, int, 0)
RETURNS(cudaDeviceGetDefaultMemPool, void *, 8)
RETURNS(cudaDriverGetVersion, int, 13000)
RETURNS(cudaEventCreate, void *, 8)
RETURNS(cudaEventCreateWithFlags, void *, 8)
RETURNS(cudaGetDevice, int, 0)
RETURNS(cudaGetDeviceCount, int, 1)
RETURNS(cudaRuntimeGetVersion, int, 13000)
RETURNS(cudaStreamCreateWithPriority, void *, 8)
RETURNS(cuCtxGetCurrent, void *, 8)
RETURNS(cuDeviceGet, int, 0)
RETURNS(cuDeviceGetAttribute, int, 0)
RETURNS(cuDeviceGetCount, int, 1)
RETURNS(cuDriverGetVersion, int, 13000)

int cudaStreamIsCapturing(void *stream, int *capturing) { *capturing = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *capturing) { *capturing = 0; return 0; }
int cudaMalloc(void **memory, size_t bytes) { *memory = malloc(bytes + 1); return 0; }
int cudaGetDeviceProperties(char *properties, int device) { memset(properties, 0, 512); return 0; }

int cudaMemGetInfo(size_t *unused, size_t *total) { *unused = *total = (size_t)80 << 30; return 0; }

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return 0;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    if (flags) *flags = 0;
    if (active) *active = 1;
    return 0;
}

int cuGetErrorName(int error, const char **text) { *text = "fake"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "fake"; return 0; }
