// Devices that are no UVC cameras, for the real binary: LD_PRELOAD puts these functions in front of libc's. A folder,
// $SHIM, has a file for each node (dev/video0), with a fact in each line, pictures (640x480.jpg, and 640x480.yuyv for a
// format YUYV, which is read once for each buffer), and what else is to be
// found in sysfs. tests/devices.rs writes the facts and describes them.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BUFFERS 32
#define BUFFER_BYTES (1 << 22)

struct device {
  char name[32], facts[8192];
  int fd, buffers, queue[BUFFERS], queued, is_streaming;
  uint32_t width, height, sequence, format;
  double period;
  int64_t queued_at[BUFFERS], filled_at; // ns of CLOCK_MONOTONIC
  void *memory[BUFFERS];
};
static struct device devices[16];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static const char *root(void) { return getenv("SHIM"); }

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// The path in our folder where a path of /dev and /sys is to be found; the path itself otherwise.
static const char *moved(const char *path, char *space) {
  const char *ours[] = {"/dev/video", "/sys/dev/char/", "/sys/class/video4linux", "/sys/devices/shim"};
  for (int i = 0; i < 4; i++)
    if (root() && path && !strncmp(path, ours[i], strlen(ours[i]))) {
      snprintf(space, PATH_MAX, "%s%s", root(), path);
      return space;
    }
  return path;
}

static void say(struct device *device, const char *format, ...) {
  char line[256], path[PATH_MAX];
  int length = snprintf(line, sizeof line, "%s ", device->name);
  va_list values;
  va_start(values, format);
  length += vsnprintf(line + length, sizeof line - length - 1, format, values);
  va_end(values);
  line[length++] = '\n';
  snprintf(path, sizeof path, "%s/calls", root());
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (write(fd, line, length) < 0) abort();
  syscall(SYS_close, fd);
}

// The words behind the nth line that begins with this word; NULL if there are fewer.
static const char *fact(struct device *device, const char *word, int nth) {
  for (char *line = device->facts; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
    if (!strncmp(line, word, strlen(word)) && line[strlen(word)] == ' ' && nth-- == 0) return line + strlen(word) + 1;
  return NULL;
}
static double number(struct device *device, const char *word, double otherwise) {
  const char *text = fact(device, word, 0);
  return text ? strtod(text, NULL) : otherwise;
}
static void copy(void *into, size_t size, const char *text) {
  size_t length = text ? strcspn(text, "\n") : 0;
  if (length >= size) length = size - 1;
  memcpy(into, text, length);
}

// `fail CALL ERRNO [TIMES [WIDTH]]`: the call fails, so often, where the stream has this width.
static int fails(struct device *device, const char *call) {
  const char *text;
  for (int nth = 0; (text = fact(device, "fail", nth)); nth++) {
    char name[32], times[16];
    int error, count = -1;
    uint32_t width = 0;
    if (sscanf(text, "%31s %d %d %u", name, &error, &count, &width) < 2 || strcmp(name, call)) continue;
    if (count == 0 || (width && width != device->width)) continue;
    if (count > 0) { // counted down in the text
      char *at = strstr((char *)text, name) + strlen(name) + 1;
      at += strcspn(at, " ") + 1;
      snprintf(times, sizeof times, "%d", count - 1);
      memset(at, ' ', strspn(at, "0123456789"));
      memcpy(at, times, strlen(times));
    }
    say(device, "%s failed with %d", call, error);
    errno = error;
    return 1;
  }
  return 0;
}

static struct device *device_of(int fd) {
  for (int i = 0; i < 16; i++)
    if (devices[i].name[0] && devices[i].fd == fd) return &devices[i];
  return NULL;
}

// A picture is there as soon as the first queued buffer is filled. The descriptor is a timer, so that poll works.
static void arm(struct device *device) {
  struct itimerspec when = {0};
  if (device->is_streaming && device->queued && !fact(device, "silent", 0)) {
    int64_t at = device->filled_at + (int64_t)(device->period * 1e9);
    if (at < device->queued_at[device->queue[0]]) at = device->queued_at[device->queue[0]] + 1000000;
    device->filled_at = at - (int64_t)(device->period * 1e9);
    when.it_value.tv_sec = at / 1000000000;
    when.it_value.tv_nsec = at % 1000000000 + !at;
  }
  // The end of a stream wakes whoever waits for its pictures.
  if (!device->is_streaming) when.it_value.tv_nsec = 1;
  timerfd_settime(device->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static int open_device(const char *path) {
  char space[PATH_MAX];
  const char *file = moved(path, space);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  pthread_mutex_lock(&mutex);
  struct device *device = NULL;
  for (int i = 0; i < 16 && !device; i++)
    if (!devices[i].name[0]) device = &devices[i];
  if (!device) abort();
  memset(device, 0, sizeof *device);
  if (read(fd, device->facts, sizeof device->facts - 1) < 0) abort();
  syscall(SYS_close, fd);
  snprintf(device->name, sizeof device->name, "%s", path + strlen("/dev/"));
  if (fails(device, "open")) {
    device->name[0] = 0;
    fd = -1;
  } else {
    say(device, "open");
    fd = device->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  }
  pthread_mutex_unlock(&mutex);
  return fd;
}

static uint32_t capabilities(struct device *device) {
  const struct {
    const char *word;
    uint32_t flag;
  } known[] = {{"capture", V4L2_CAP_VIDEO_CAPTURE}, {"output", V4L2_CAP_VIDEO_OUTPUT}, {"m2m", V4L2_CAP_VIDEO_M2M},
               {"capture-mplane", V4L2_CAP_VIDEO_CAPTURE_MPLANE}, {"output-mplane", V4L2_CAP_VIDEO_OUTPUT_MPLANE},
               {"m2m-mplane", V4L2_CAP_VIDEO_M2M_MPLANE}, {"metadata", V4L2_CAP_META_CAPTURE}};
  uint32_t flags = V4L2_CAP_STREAMING;
  char words[128] = {0};
  copy(words, sizeof words, fact(device, "can", 0));
  for (char *rest = words, *word; (word = strsep(&rest, " "));)
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
      if (!strcmp(word, known[i].word)) flags |= known[i].flag;
  return flags;
}

static int refuse(int error) {
  errno = error;
  return -1;
}

static int enumerate_size(struct device *device, struct v4l2_frmsizeenum *entry) {
  uint32_t w, h, max_w, max_h, step;
  if (fact(device, "no-sizes", 0)) return refuse(ENOTTY);
  const char *text = fact(device, "range", 0);
  if (text && entry->index == 0 && sscanf(text, "%ux%u %ux%u %u", &w, &h, &max_w, &max_h, &step) == 5) {
    entry->type = step == 1 ? V4L2_FRMSIZE_TYPE_CONTINUOUS : V4L2_FRMSIZE_TYPE_STEPWISE;
    entry->stepwise = (struct v4l2_frmsize_stepwise){w, max_w, step, h, max_h, step};
    return 0;
  }
  int count = 0;
  while (fact(device, "size", count)) count++;
  if (text || (int)entry->index >= count) {
    // `endless`: a driver that repeats its last entry for ever.
    if (!fact(device, "endless", 0) || !count) return refuse(EINVAL);
  }
  text = fact(device, "size", (int)entry->index < count ? (int)entry->index : count - 1);
  if (!text || sscanf(text, "%ux%u", &w, &h) != 2) return refuse(EINVAL);
  entry->type = V4L2_FRMSIZE_TYPE_DISCRETE;
  entry->discrete = (struct v4l2_frmsize_discrete){w, h};
  return 0;
}

static int enumerate_rate(struct device *device, struct v4l2_frmivalenum *entry) {
  const char *text = fact(device, "rates", 0);
  char words[128] = {0};
  copy(words, sizeof words, text);
  if (!text) return refuse(ENOTTY);
  char *rest = words, *word;
  for (uint32_t i = 0; (word = strsep(&rest, " ")); i++)
    if (i == entry->index) {
      entry->type = V4L2_FRMIVAL_TYPE_DISCRETE;
      entry->discrete = (struct v4l2_fract){1000, (uint32_t)(strtod(word, NULL) * 1000)};
      return 0;
    }
  return refuse(EINVAL);
}

static int is_raw(struct device *device) { return device->format == V4L2_PIX_FMT_YUYV; }

static void get_format(struct device *device, struct v4l2_pix_format *pix) {
  *pix = (struct v4l2_pix_format){.width = device->width, .height = device->height, .pixelformat = device->format,
                                  .field = V4L2_FIELD_NONE, .sizeimage = BUFFER_BYTES};
  if (is_raw(device)) pix->bytesperline = 2 * pix->width, pix->sizeimage = pix->bytesperline * pix->height;
}

// The granted size that is nearest to what is asked for, as drivers do it.
static int set_format(struct device *device, struct v4l2_format *format) {
  struct v4l2_pix_format *pix = &format->fmt.pix;
  uint32_t asked[] = {pix->width, pix->height}, w, h;
  uint64_t best = UINT64_MAX;
  const char *text;
  for (int nth = 0; (text = fact(device, "grants", nth)); nth++)
    if (sscanf(text, "%ux%u", &w, &h) == 2) {
      uint64_t away = llabs((int64_t)w * h - (int64_t)asked[0] * asked[1]);
      if (away < best) best = away, pix->width = w, pix->height = h;
    }
  device->width = pix->width, device->height = pix->height;
  device->format = V4L2_PIX_FMT_MJPEG;
  for (int nth = 0; (text = fact(device, "format", nth)); nth++)
    if (v4l2_fourcc(text[0], text[1], text[2], text[3]) == pix->pixelformat) device->format = pix->pixelformat;
  get_format(device, pix);
  device->period = 1 / number(device, "fps", 30);
  say(device, "S_FMT %ux%u got %ux%u", asked[0], asked[1], pix->width, pix->height);
  return 0;
}

static int stream(struct device *device, int on) {
  device->is_streaming = on;
  device->sequence = 0;
  device->queued = on ? device->queued : 0;
  device->filled_at = now();
  say(device, on ? "STREAMON" : "STREAMOFF");
  arm(device);
  return 0;
}

static int request_buffers(struct device *device, struct v4l2_requestbuffers *request) {
  uint32_t asked = request->count;
  if (asked) request->count = (uint32_t)number(device, "buffers", asked);
  for (int i = 0; i < device->buffers; i++) device->memory[i] = NULL;
  device->buffers = (int)request->count;
  say(device, "REQBUFS %u got %u", asked, request->count);
  return 0;
}

static int take(struct device *device, struct v4l2_buffer *buffer) {
  char path[PATH_MAX];
  int64_t at = device->filled_at + (int64_t)(device->period * 1e9);
  if (!device->is_streaming) return refuse(EINVAL);
  if (!device->queued || at > now() || fact(device, "silent", 0)) return refuse(EAGAIN);
  int index = device->queue[0];
  memmove(device->queue, device->queue + 1, (size_t)--device->queued * sizeof *device->queue);
  ssize_t length = 2 * device->width * device->height;
  if (!is_raw(device) || device->sequence < (uint32_t)device->buffers) {
    snprintf(path, sizeof path, "%s/%ux%u.%s", root(), device->width, device->height, is_raw(device) ? "yuyv" : "jpg");
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    length = read(fd, device->memory[index], BUFFER_BYTES);
    if (length < 0) abort();
    syscall(SYS_close, fd);
  }
  device->filled_at = at;
  at -= (int64_t)(number(device, "late", 0) * 1e9);
  // `stamp N SECONDS`: this picture's time is wrong by so much.
  const char *wrong = fact(device, "stamp", 0);
  char *end;
  if (wrong && strtoul(wrong, &end, 10) == device->sequence) at += (int64_t)(strtod(end, NULL) * 1e9);
  uint32_t flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  *buffer = (struct v4l2_buffer){.index = (uint32_t)index, .type = buffer->type, .memory = V4L2_MEMORY_MMAP,
                                 .bytesused = (uint32_t)length, .length = BUFFER_BYTES, .flags = flags,
                                 .field = V4L2_FIELD_NONE, .sequence = device->sequence++};
  buffer->timestamp.tv_sec = at / 1000000000, buffer->timestamp.tv_usec = at % 1000000000 / 1000;
  arm(device);
  return 0;
}

static int queue(struct device *device, struct v4l2_buffer *buffer) {
  if ((int)buffer->index >= device->buffers) return refuse(EINVAL);
  device->queued_at[buffer->index] = now();
  device->queue[device->queued++] = (int)buffer->index;
  if (!device->is_streaming || device->sequence < (uint32_t)device->buffers) say(device, "QBUF %u", buffer->index);
  if (device->queued == 1) arm(device);
  return 0;
}

static const char *call_name(unsigned long request) {
  switch (request) {
  case VIDIOC_QUERYCAP: return "QUERYCAP";
  case VIDIOC_S_FMT: return "S_FMT";
  case VIDIOC_S_PARM: return "S_PARM";
  case VIDIOC_REQBUFS: return "REQBUFS";
  case VIDIOC_STREAMON: return "STREAMON";
  case VIDIOC_STREAMOFF: return "STREAMOFF";
  case VIDIOC_DQBUF: return "DQBUF";
  default: return "other";
  }
}

// Whether its file is there: a test that removes it pulls the plug.
static int is_plugged(struct device *device) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/dev/%s", root(), device->name);
  return syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
}

static int answer(struct device *device, unsigned long request, void *argument) {
  if (!is_plugged(device)) return refuse(ENODEV);
  if (fails(device, call_name(request))) return -1;
  switch (request) {
  case VIDIOC_QUERYCAP: {
    struct v4l2_capability *caps = argument;
    copy(caps->driver, sizeof caps->driver, fact(device, "driver", 0));
    copy(caps->card, sizeof caps->card, fact(device, "card", 0));
    copy(caps->bus_info, sizeof caps->bus_info, fact(device, "bus", 0));
    caps->device_caps = capabilities(device);
    // All that any node of the device can do, as real drivers say it.
    caps->capabilities = caps->device_caps | V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_DEVICE_CAPS;
    return 0;
  }
  case VIDIOC_ENUM_FMT: {
    struct v4l2_fmtdesc *entry = argument;
    const char *text = fact(device, "format", (int)entry->index);
    if (!text || entry->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return refuse(EINVAL);
    entry->pixelformat = v4l2_fourcc(text[0], text[1], text[2], text[3]);
    return 0;
  }
  case VIDIOC_ENUM_FRAMESIZES: return enumerate_size(device, argument);
  case VIDIOC_ENUM_FRAMEINTERVALS: return enumerate_rate(device, argument);
  case VIDIOC_S_FMT: return set_format(device, argument);
  case VIDIOC_G_FMT: get_format(device, &((struct v4l2_format *)argument)->fmt.pix); return 0;
  case VIDIOC_S_INPUT: return 0;
  case VIDIOC_S_PARM:
  case VIDIOC_G_PARM: {
    struct v4l2_fract *interval = &((struct v4l2_streamparm *)argument)->parm.capture.timeperframe;
    if (request == VIDIOC_S_PARM) say(device, "S_PARM %u/%u", interval->denominator, interval->numerator);
    *interval = (struct v4l2_fract){1000, (uint32_t)(1000 / device->period)};
    return 0;
  }
  case VIDIOC_REQBUFS: return request_buffers(device, argument);
  case VIDIOC_QUERYBUF: ((struct v4l2_buffer *)argument)->length = BUFFER_BYTES; return 0;
  case VIDIOC_QBUF: return queue(device, argument);
  case VIDIOC_DQBUF: return take(device, argument);
  case VIDIOC_STREAMON: return stream(device, 1);
  case VIDIOC_STREAMOFF: return stream(device, 0);
  case VIDIOC_QUERY_EXT_CTRL: return refuse(ENOTTY);
  default: return refuse(ENOTTY);
  }
}

// ---- what stands in front of libc ----

long syscall_(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long syscall_(long number, long a, long b, long c, long d, long e, long f) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  if (number != SYS_ioctl || !root()) return real(number, a, b, c, d, e, f);
  pthread_mutex_lock(&mutex);
  struct device *device = device_of((int)a);
  long result = device ? answer(device, (unsigned long)b, (void *)c) : 0;
  pthread_mutex_unlock(&mutex);
  return device ? result : real(number, a, b, c, d, e, f);
}

// Of programs other than framehub.
int ioctl(int fd, unsigned long request, ...) {
  va_list values;
  va_start(values, request);
  void *argument = va_arg(values, void *);
  va_end(values);
  return (int)syscall_(SYS_ioctl, fd, (uint32_t)request, (long)argument, 0, 0, 0);
}

int access(const char *path, int mode) {
  char space[PATH_MAX];
  return (int)syscall(SYS_faccessat, AT_FDCWD, moved(path, space), mode);
}

static int open_any(const char *path, int flags, int mode) {
  char space[PATH_MAX];
  if (root() && !strncmp(path, "/dev/video", 10)) return open_device(path);
  return (int)syscall(SYS_openat, AT_FDCWD, moved(path, space), flags, mode);
}
#define WITH_MODE(name)                                                                                                \
  int name(const char *path, int flags, ...) {                                                                         \
    va_list values;                                                                                                    \
    va_start(values, flags);                                                                                           \
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(values, int) : 0;                                              \
    va_end(values);                                                                                                    \
    return open_any(path, flags, mode);                                                                                \
  }
WITH_MODE(open)
WITH_MODE(open64)

int close(int fd) {
  pthread_mutex_lock(&mutex);
  struct device *device = device_of(fd);
  if (device) {
    say(device, "close");
    device->name[0] = 0;
  }
  pthread_mutex_unlock(&mutex);
  return (int)syscall(SYS_close, fd);
}

static void *map(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  void *memory = NULL;
  pthread_mutex_lock(&mutex);
  struct device *device = fd >= 0 && root() ? device_of(fd) : NULL;
  if (device) {
    for (int i = 0; i < device->buffers && !memory; i++)
      if (!device->memory[i]) {
        memory = (void *)syscall(SYS_mmap, NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        device->memory[i] = memory;
      }
  }
  pthread_mutex_unlock(&mutex);
  return memory ? memory : (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
  return map(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  return map(at, length, protection, flags, fd, offset);
}

DIR *opendir(const char *path) {
  char space[PATH_MAX];
  if (root() && !strcmp(path, "/dev")) {
    snprintf(space, sizeof space, "%s/dev", root());
    return REAL(opendir)(space);
  }
  return REAL(opendir)(moved(path, space));
}

char *realpath(const char *path, char *resolved) {
  char space[PATH_MAX];
  char *found = REAL(realpath)(moved(path, space), resolved);
  if (found && root() && !strncmp(found, root(), strlen(root())))
    memmove(found, found + strlen(root()), strlen(found + strlen(root())) + 1);
  return found;
}

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *result) {
  char space[PATH_MAX];
  int status = (int)syscall(SYS_statx, folder, moved(path, space), flags, mask, result);
  if (!status && root() && !strncmp(path, "/dev/video", 10)) {
    result->stx_mode = S_IFCHR | 0660;
    result->stx_rdev_major = 81;
    result->stx_rdev_minor = (uint32_t)atoi(path + 10);
    // A container may have given the node another name: `minors/video0` has its number then.
    char other[PATH_MAX], number[16] = {0};
    snprintf(other, sizeof other, "%s/minors/%s", root(), path + 5);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, other, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, number, sizeof number - 1) > 0) result->stx_rdev_minor = (uint32_t)atoi(number);
    if (fd >= 0) syscall(SYS_close, fd);
  }
  return status;
}
