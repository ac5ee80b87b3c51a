/* A stand-in for NVIDIA's libnvidia-ml.so.1: the calls that tokenswarm makes, answered from a script.
 *
 * FAKE_NVML names the script. It is read again whenever it was replaced. A line is
 *     [@SECONDS ]KEY = VALUE
 * The last line of a key counts; one with @ counts only SECONDS after the first nvmlInit.
 *     count = 2                          GPUs gpu0, gpu1; MIG instance 1 of gpu0 is gpu0-mig-1
 *     GPU.KEY = VALUE                    see each call below; a missing key is "not supported"
 *     GPU.lost = 1                       falls off the bus; once back, nobody listens to its events.
 *                                        GPU.sticky = 1: back only after nvmlInit
 *     GPU.error.FUNCTION = CODE          (or error.FUNCTION, for calls without a device)
 *     GPU.delay_us.FUNCTION = MICROSECONDS
 *     event = GPU CODE                   an XID; each such line is delivered once
 * FAKE_NVML_CALLS, if set, names a file that gets a line "DEVICE FUNCTION" for every call.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       TIMEOUT = 10, LOST = 15 };
enum { GPUS = 8, PARTS = 7, TEXT = 1 << 16 };

typedef struct { char name[24]; int gpu, part, registered; } Device;

static Device gpus[GPUS], parts[GPUS][PARTS];
static int sticky_lost[GPUS], was_lost[GPUS];
static int users, events_delivered, event_set;
static char text[TEXT];
static struct stat known;
static struct timespec start;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double passed(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9;
}

static void reread(void) {
    const char *path = getenv("FAKE_NVML");
    struct stat now;
    if (!path || stat(path, &now)) { text[0] = 0; return; }
    if (now.st_ino == known.st_ino && now.st_size == known.st_size &&
        now.st_mtim.tv_sec == known.st_mtim.tv_sec && now.st_mtim.tv_nsec == known.st_mtim.tv_nsec)
        return;
    int file = open(path, O_RDONLY);
    ssize_t n = file < 0 ? 0 : read(file, text, TEXT - 1);
    if (file >= 0) close(file);
    text[n < 0 ? 0 : n] = 0;
    known = now;
}

/* The value of the `nth` line of `key` that counts by now (-1: the last one). 1 if there is one. */
static int value(const char *key, int nth, char *out, size_t room) {
    int found = 0, seen = 0;
    size_t length = strlen(key);
    for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : 0) {
        char *at = line;
        if (*at == '@') {
            if (strtod(at + 1, &at) > passed()) continue;
            at += strspn(at, " ");
        }
        if (strncmp(at, key, length) || strncmp(at + length, " = ", 3)) continue;
        if (nth < 0 || seen == nth) {
            size_t n = strcspn(at + length + 3, "\n");
            if (n >= room) n = room - 1;
            memcpy(out, at + length + 3, n);
            out[n] = 0;
            found = 1;
        }
        seen++;
    }
    return found;
}

static int get(const char *owner, const char *key, char *out, size_t room) {
    char whole[160];
    snprintf(whole, sizeof whole, "%s%s%s", owner, *owner ? "." : "", key);
    return value(whole, -1, out, room);
}

static long long number(const char *owner, const char *key, long long otherwise) {
    char out[64];
    return get(owner, key, out, sizeof out) ? strtoll(out, 0, 0) : otherwise;
}

static void note(const char *owner, const char *function) {
    const char *path = getenv("FAKE_NVML_CALLS");
    char line[160];
    if (!path) return;
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0) return;
    int n = snprintf(line, sizeof line, "%s %s\n", *owner ? owner : "-", function);
    if (write(file, line, n) < 0) {}
    close(file);
}

/* What every call begins with: script, loss, scripted errors and delays. */
static int begin(const Device *d, const char *function) {
    const char *owner = d ? d->name : "";
    char key[128];
    pthread_mutex_lock(&lock);
    reread();
    note(owner, function);
    int code = OK;
    if (!users) code = UNINITIALIZED;
    else if (d) {
        if (number(gpus[d->gpu].name, "lost", 0)) {
            code = LOST;
            was_lost[d->gpu] = 1;
            if (number(gpus[d->gpu].name, "sticky", 0)) sticky_lost[d->gpu] = 1;
        } else if (sticky_lost[d->gpu]) {
            code = LOST;
        } else if (was_lost[d->gpu]) {
            was_lost[d->gpu] = 0;
            gpus[d->gpu].registered = 0;
        }
    }
    if (code == OK) {
        snprintf(key, sizeof key, "error.%s", function);
        code = (int)number(owner, key, OK);
    }
    snprintf(key, sizeof key, "delay_us.%s", function);
    long long delay_us = number(owner, key, 0);
    pthread_mutex_unlock(&lock);
    if (delay_us) usleep(delay_us);
    return code;
}

static int text_of(const Device *d, const char *key, char *out, size_t room) {
    pthread_mutex_lock(&lock);
    int found = get(d ? d->name : "", key, out, room);
    pthread_mutex_unlock(&lock);
    return found ? OK : NOT_SUPPORTED;
}

static int numbers(const Device *d, const char *key, unsigned long long *out, int n) {
    char line[256], *at = line;
    int code = text_of(d, key, line, sizeof line);
    for (int i = 0; code == OK && i < n; i++) out[i] = strtoull(at, &at, 0);
    return code;
}

#define BEGIN(d) do { int code_ = begin(d, __func__); if (code_) return code_; } while (0)

/* A call that gives one number of a device. */
#define NUMBER(function, type, key) \
    int function(Device *d, type *out) { \
        unsigned long long n; \
        BEGIN(d); \
        int code = numbers(d, key, &n, 1); \
        if (code == OK) *out = (type)n; \
        return code; \
    }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    note("", __func__);
    if (!users) {
        memset(&known, 0, sizeof known);
        if (!start.tv_sec) clock_gettime(CLOCK_MONOTONIC, &start);
        memset(sticky_lost, 0, sizeof sticky_lost);
        for (int i = 0; i < GPUS; i++) {
            snprintf(gpus[i].name, sizeof gpus[i].name, "gpu%d", i);
            gpus[i].gpu = i;
            gpus[i].part = -1;
            gpus[i].registered = 0;
            for (int p = 0; p < PARTS; p++) {
                snprintf(parts[i][p].name, sizeof parts[i][p].name, "gpu%d-mig-%d", i, p);
                parts[i][p].gpu = i;
                parts[i][p].part = p;
            }
        }
    }
    reread();
    int code = (int)number("", "error.nvmlInitWithFlags", OK);
    if (code == OK) users++;
    pthread_mutex_unlock(&lock);
    return code;
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    note("", __func__);
    int code = users ? OK : UNINITIALIZED;
    if (users) users--;
    pthread_mutex_unlock(&lock);
    return code;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Some Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned room) { BEGIN(0); return text_of(0, "driver", out, room); }
int nvmlSystemGetNVMLVersion(char *out, unsigned room) { BEGIN(0); return text_of(0, "nvml", out, room); }

int nvmlDeviceGetCount_v2(unsigned *out) {
    BEGIN(0);
    *out = (unsigned)number("", "count", 1);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    if (index >= GPUS || index >= (unsigned)number("", "count", 1)) return INVALID;
    BEGIN(&gpus[index]);
    *out = &gpus[index];
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) {
    BEGIN(0);
    for (int i = 0; i < (int)number("", "count", 1); i++) {
        char own[96];
        if (text_of(&gpus[i], "uuid", own, sizeof own) || strcmp(own, uuid)) continue;
        BEGIN(&gpus[i]);
        *out = &gpus[i];
        return OK;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(Device *d, char *out, unsigned room) { BEGIN(d); return text_of(d, "name", out, room); }
int nvmlDeviceGetUUID(Device *d, char *out, unsigned room) { BEGIN(d); return text_of(d, "uuid", out, room); }

/* GPU.memory = TOTAL RESERVED FREE USED, as version 2 gives it; version 1 counts reserved as used */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;

int nvmlDeviceGetMemoryInfo(Device *d, Memory *out) {
    unsigned long long n[4];
    BEGIN(d);
    int code = numbers(d, "memory", n, 4);
    if (code == OK) *out = (Memory){n[0], n[2], n[0] - n[2]};
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory2 *out) {
    unsigned long long n[4];
    BEGIN(d);
    int code = numbers(d, "memory", n, 4);
    if (code == OK) { out->total = n[0]; out->reserved = n[1]; out->free = n[2]; out->used = n[3]; }
    return code;
}

typedef struct { unsigned gpu, memory; } Utilisation;

int nvmlDeviceGetUtilizationRates(Device *d, Utilisation *out) {
    unsigned long long n[2];
    BEGIN(d);
    int code = numbers(d, "util", n, 2);
    if (code == OK) *out = (Utilisation){n[0], n[1]};
    return code;
}

NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power_mw")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy_mj")

int nvmlDeviceGetClockInfo(Device *d, int clock, unsigned *out) {
    unsigned long long n;
    BEGIN(d);
    int code = numbers(d, clock == 1 ? "sm_mhz" : "memory_mhz", &n, 1);
    if (code == OK) *out = n;
    return code;
}

int nvmlDeviceGetTemperature(Device *d, int sensor, unsigned *out) {
    unsigned long long n;
    BEGIN(d);
    int code = sensor ? INVALID : numbers(d, "temperature_c", &n, 1);
    if (code == OK) *out = n;
    return code;
}

int nvmlDeviceGetTotalEccErrors(Device *d, int kind, int counter, unsigned long long *out) {
    BEGIN(d);
    return counter ? INVALID : numbers(d, kind ? "ecc_uncorrected" : "ecc_corrected", out, 1);
}

int nvmlDeviceGetPcieThroughput(Device *d, int counter, unsigned *out) {
    unsigned long long n;
    BEGIN(d);
    int code = numbers(d, counter ? "pcie_rx_kb_per_s" : "pcie_tx_kb_per_s", &n, 1);
    if (code == OK) *out = n;
    return code;
}

/* GPU.processes = PID:BYTES,PID:none */
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;

static int processes(Device *d, const char *key, unsigned *count, Process *out) {
    char line[1024], *at = line;
    unsigned n = 0, room = out ? *count : 0;
    int code = text_of(d, key, line, sizeof line);
    if (code) return code;
    while (*at) {
        char *end;
        Process p = {strtoul(at, &end, 10), ~0ULL, ~0U, ~0U};
        if (end == at) break;
        if (*end == ':' && end[1] != 'n') p.used = strtoull(end + 1, &end, 10);
        if (n < room) out[n] = p;
        n++;
        at = strchr(end, ',') ? strchr(end, ',') + 1 : "";
    }
    *count = n;
    return n > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *n, Process *out) { BEGIN(d); return processes(d, "processes", n, out); }
int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, unsigned *n, Process *out) { BEGIN(d); return processes(d, "processes", n, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *d, unsigned *n, Process *out) { BEGIN(d); return processes(d, "graphics", n, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(Device *d, unsigned *n, Process *out) { BEGIN(d); return processes(d, "graphics", n, out); }

typedef union { double d; unsigned u; unsigned long ul; unsigned long long ull; } Value;
typedef struct { uint32_t field, scope; int64_t when, latency; int kind, result; Value value; } Field;

/* GPU.field.NUMBER = VALUE */
int nvmlDeviceGetFieldValues(Device *d, int n, Field *fields) {
    BEGIN(d);
    for (int i = 0; i < n; i++) {
        char key[32];
        unsigned long long v;
        snprintf(key, sizeof key, "field.%u", fields[i].field);
        fields[i].kind = fields[i].field == 83 || fields[i].field >= 197 ? 3 : 1;
        fields[i].result = numbers(d, key, &v, 1);
        if (fields[i].result) continue;
        if (fields[i].kind == 3) fields[i].value.ull = v; else fields[i].value.u = v;
    }
    return OK;
}

/* GPU.samples.KIND = MICROSECONDS:VALUE,MICROSECONDS:VALUE; the whole of it is given, as some
 * drivers do, however late `since` is, unless nothing in it is newer */
typedef struct { unsigned long long when; Value value; } Sample;

int nvmlDeviceGetSamples(Device *d, int kind, unsigned long long since, int *type, unsigned *count, Sample *out) {
    char key[32], line[1024], *at = line;
    unsigned n = 0;
    int newer = 0;
    BEGIN(d);
    snprintf(key, sizeof key, "samples.%d", kind);
    int code = text_of(d, key, line, sizeof line);
    if (code) return code;
    *type = 1;
    while (*at) {
        char *end;
        Sample s = {strtoull(at, &end, 10), {0}};
        if (end == at) break;
        s.value.u = strtoul(end + 1, &end, 10);
        newer |= s.when > since;
        if (out && n < *count) out[n] = s;
        n++;
        at = strchr(end, ',') ? strchr(end, ',') + 1 : "";
    }
    *count = n;
    return newer ? OK : NOT_FOUND;
}

/* GPU.mig = 1; an instance is there if it has a uuid */
int nvmlDeviceGetMigMode(Device *d, unsigned *now, unsigned *later) {
    unsigned long long n;
    BEGIN(d);
    int code = numbers(d, "mig", &n, 1);
    if (code == OK) *now = *later = n;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *out) { BEGIN(d); *out = PARTS; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **out) {
    char uuid[96];
    BEGIN(d);
    if (index >= PARTS) return INVALID;
    if (text_of(&parts[d->gpu][index], "uuid", uuid, sizeof uuid)) return NOT_FOUND;
    *out = &parts[d->gpu][index];
    return OK;
}

typedef struct { Device *device; unsigned long long type, data; unsigned instance, compute; } Event;

int nvmlEventSetCreate(void **out) {
    BEGIN(0);
    *out = &event_set;
    return OK;
}

int nvmlEventSetFree(void *set) {
    (void)set;
    BEGIN(0);
    for (int i = 0; i < GPUS; i++) gpus[i].registered = 0;
    return OK;
}

int nvmlDeviceRegisterEvents(Device *d, unsigned long long types, void *set) {
    (void)set;
    BEGIN(d);
    d->registered |= types == 8;
    return OK;
}

int nvmlEventSetWait_v2(void *set, Event *out, unsigned timeout_ms) {
    char line[64];
    int gpu, code = TIMEOUT;
    unsigned xid;
    (void)set;
    BEGIN(0);
    pthread_mutex_lock(&lock);
    if (value("event", events_delivered, line, sizeof line) && sscanf(line, "gpu%d %u", &gpu, &xid) == 2) {
        events_delivered++;
        if (gpus[gpu].registered) {
            *out = (Event){&gpus[gpu], 8, xid, ~0U, ~0U};
            code = OK;
        }
    }
    pthread_mutex_unlock(&lock);
    if (code) usleep(timeout_ms * 1000);
    return code;
}
