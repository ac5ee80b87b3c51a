/* The hot path's inner loop, compiled: a token costs one recvmsg and no Python frame.
 *
 *   Shape    the bytes of one stream's token events (wire/shape.py says what it promises)
 *   Counter  a number that grows
 *   Tap      one socket: reads it, stamps by the kernel's clock, takes chunks of the known shape
 *            itself and hands everything else to Python, byte for byte in order
 *   look     reads every socket of an epoll that has something, once
 *
 * Without a C compiler at installation all of this is missing, and the Python beside each user of
 * it does the same at a higher price (tokenswarm/native.py). Everything here holds the GIL and
 * never blocks.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#ifndef SO_TIMESTAMPNS
#define SO_TIMESTAMPNS 35
#endif

enum {
    RECV_BYTES = 64 * 1024,
    MAX_READY = 4096,
    LONGEST_SIZE = 7, /* hexadecimal digits of a chunk's size that are read here */
};

/* Bytes may come between the look's moment and the read, and a clock may step. */
static const double EARLIEST_S = -0.1, LATEST_S = 600.0;

static char received[RECV_BYTES]; /* one for the process: used between a read and its handing on */

/* ---- Counter ---- */

typedef struct {
    PyObject_HEAD
    long long n;
} Counter;

static PyMemberDef counter_members[] = {
    {"n", T_LONGLONG, offsetof(Counter, n), 0, "how many so far"},
    {NULL},
};

static PyTypeObject CounterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "tokenswarm._native.Counter",
    .tp_basicsize = sizeof(Counter),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Counter(): a number that grows, `n`.",
    .tp_members = counter_members,
    .tp_new = PyType_GenericNew,
};

/* ---- Shape: lead + a slot of the time stamp + head + slot + tail, or head + slot + tail ---- */

typedef struct {
    PyObject_HEAD
    PyObject *lead, *head, *tail; /* bytes; lead may be NULL */
    Py_ssize_t least;
} Shape;

static int is_hex(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Where a slot that starts at p ends: no bare quote, whole escapes, no line end. */
static const char *slot_end(const char *p, const char *end) {
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\n' || c == '\r') {
            break;
        }
        if (c != '\\') {
            p++;
            continue;
        }
        if (end - p < 2) {
            break;
        }
        if (p[1] != '\0' && strchr("\"\\/bfnrt", p[1])) {
            p += 2;
        } else if (p[1] == 'u' && end - p >= 6 && is_hex(p[2]) && is_hex(p[3]) && is_hex(p[4]) &&
                   is_hex(p[5])) {
            p += 6;
        } else {
            break;
        }
    }
    return p;
}

/* Past `literal` if it stands at p, else NULL. */
static const char *past(const char *p, const char *end, PyObject *literal) {
    Py_ssize_t size = PyBytes_GET_SIZE(literal);
    if (end - p < size || memcmp(p, PyBytes_AS_STRING(literal), (size_t)size) != 0) {
        return NULL;
    }
    return p + size;
}

/* Past one event of the shape at p, or NULL. */
static const char *past_event(const Shape *shape, const char *p, const char *end) {
    if (shape->lead != NULL) {
        if ((p = past(p, end, shape->lead)) == NULL) {
            return NULL;
        }
        p = slot_end(p, end);
    }
    if ((p = past(p, end, shape->head)) == NULL) {
        return NULL;
    }
    const char *start = p;
    p = slot_end(p, end);
    if (p - start < shape->least) {
        return NULL;
    }
    return past(p, end, shape->tail);
}

/* How many events of the shape there are from p on; p is moved past them. */
static Py_ssize_t run_shape(const Shape *shape, const char **p, const char *end) {
    Py_ssize_t events = 0;
    const char *next;
    while ((next = past_event(shape, *p, end)) != NULL) {
        events++;
        *p = next;
    }
    return events;
}

static PyObject *shape_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *lead, *head, *tail;
    Py_ssize_t least;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Shape takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OSSn:Shape", &lead, &head, &tail, &least)) {
        return NULL;
    }
    if (lead != Py_None && !PyBytes_Check(lead)) {
        PyErr_SetString(PyExc_TypeError, "lead must be bytes or None");
        return NULL;
    }
    if (PyBytes_GET_SIZE(head) == 0 || PyBytes_GET_SIZE(tail) == 0) {
        PyErr_SetString(PyExc_ValueError, "a shape needs a head and a tail");
        return NULL;
    }
    Shape *self = (Shape *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->lead = lead == Py_None ? NULL : Py_NewRef(lead);
        self->head = Py_NewRef(head);
        self->tail = Py_NewRef(tail);
        self->least = least;
    }
    return (PyObject *)self;
}

static void shape_dealloc(Shape *self) {
    Py_XDECREF(self->lead);
    Py_XDECREF(self->head);
    Py_XDECREF(self->tail);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *shape_call(Shape *self, PyObject *args, PyObject *kwargs) {
    Py_buffer data;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "y*:Shape", &data)) {
        return NULL;
    }
    const char *start = data.buf, *p = start;
    Py_ssize_t events = run_shape(self, &p, start + data.len);
    Py_ssize_t taken = p - start;
    PyBuffer_Release(&data);
    return Py_BuildValue("nn", events, taken);
}

static PyTypeObject ShapeType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "tokenswarm._native.Shape",
    .tp_basicsize = sizeof(Shape),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Shape(lead, head, tail, least): call it with bytes for (events, bytes they take).",
    .tp_new = shape_new,
    .tp_dealloc = (destructor)shape_dealloc,
    .tp_call = (ternaryfunc)shape_call,
};

/* ---- Tap ---- */

typedef struct {
    PyObject_HEAD
    int fd;
    double last_s;       /* perf_counter seconds of the last bytes, 0 before any */
    long long bytes;     /* bytes of body that Python has not seen */
    PyObject *times;     /* list: a float for each token event */
    PyObject *counter;   /* Counter of token events */
    PyObject *on_bytes;  /* (perf_counter seconds, bytes): what is not taken here */
    PyObject *on_closed; /* () */
    PyObject *on_error;  /* (errno) */
    PyObject *shape;     /* Shape while the stream is between two chunks and two events, or NULL */
} Tap;

static int tap_traverse(Tap *self, visitproc visit, void *arg) {
    Py_VISIT(self->times);
    Py_VISIT(self->counter);
    Py_VISIT(self->on_bytes);
    Py_VISIT(self->on_closed);
    Py_VISIT(self->on_error);
    Py_VISIT(self->shape);
    return 0;
}

static int tap_clear(Tap *self) {
    Py_CLEAR(self->times);
    Py_CLEAR(self->counter);
    Py_CLEAR(self->on_bytes);
    Py_CLEAR(self->on_closed);
    Py_CLEAR(self->on_error);
    Py_CLEAR(self->shape);
    return 0;
}

static void tap_dealloc(Tap *self) {
    PyObject_GC_UnTrack(self);
    tap_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *tap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "times", "counter", "on_bytes", "on_closed", "on_error", NULL};
    int fd;
    PyObject *times, *counter, *on_bytes, *on_closed, *on_error;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO!O!OOO:Tap", names, &fd, &PyList_Type, &times,
                                     &CounterType, &counter, &on_bytes, &on_closed, &on_error)) {
        return NULL;
    }
    Tap *self = (Tap *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
        self->times = Py_NewRef(times);
        self->counter = Py_NewRef(counter);
        self->on_bytes = Py_NewRef(on_bytes);
        self->on_closed = Py_NewRef(on_closed);
        self->on_error = Py_NewRef(on_error);
    }
    return (PyObject *)self;
}

static PyObject *tap_get_shape(Tap *self, void *closure) {
    (void)closure;
    return Py_NewRef(self->shape == NULL ? Py_None : self->shape);
}

static int tap_set_shape(Tap *self, PyObject *value, void *closure) {
    (void)closure;
    if (value == NULL || value == Py_None) {
        Py_CLEAR(self->shape);
        return 0;
    }
    if (!Py_IS_TYPE(value, &ShapeType)) {
        PyErr_SetString(PyExc_TypeError, "shape must be a Shape or None");
        return -1;
    }
    Py_XSETREF(self->shape, Py_NewRef(value));
    return 0;
}

static PyMemberDef tap_members[] = {
    {"last_s", T_DOUBLE, offsetof(Tap, last_s), 0, "perf_counter seconds of the last bytes"},
    {"bytes", T_LONGLONG, offsetof(Tap, bytes), 0, "bytes of body that were taken here"},
    {NULL},
};

static PyGetSetDef tap_getset[] = {
    {"shape", (getter)tap_get_shape, (setter)tap_set_shape,
     "Shape of the token events to take; None: all bytes go to `on_bytes`", NULL},
    {NULL},
};

static PyTypeObject TapType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "tokenswarm._native.Tap",
    .tp_basicsize = sizeof(Tap),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Tap(fd, times, counter, on_bytes, on_closed, on_error): reads one stream.",
    .tp_new = tap_new,
    .tp_dealloc = (destructor)tap_dealloc,
    .tp_traverse = (traverseproc)tap_traverse,
    .tp_clear = (inquiry)tap_clear,
    .tp_members = tap_members,
    .tp_getset = tap_getset,
};

/* The size of the chunk that starts at p, -1 when it is not written in the plain way; p is moved
 * to its first byte. */
static Py_ssize_t chunk_size(const char **p, const char *end) {
    const char *at = *p;
    Py_ssize_t size = 0;
    while (at < end && at - *p < LONGEST_SIZE && is_hex((unsigned char)*at)) {
        char c = *at++;
        size = size * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (at == *p || end - at < 2 || at[0] != '\r' || at[1] != '\n') {
        return -1;
    }
    *p = at + 2;
    return size;
}

static int stamp_tokens(Tap *tap, double now, Py_ssize_t events) {
    PyObject *stamp = PyFloat_FromDouble(now);
    int failed = stamp == NULL;
    for (Py_ssize_t i = 0; i < events && !failed; i++) {
        failed = PyList_Append(tap->times, stamp);
    }
    Py_XDECREF(stamp);
    ((Counter *)tap->counter)->n += events;
    return failed ? -1 : 0;
}

/* Take whole chunks that hold nothing but whole events of the shape; p is moved past them. What
 * follows, even one byte of it, is Python's. -1 on an exception. */
static int take_chunks(Tap *tap, double now, const char **p, const char *end) {
    while (*p < end) {
        const char *body = *p;
        Py_ssize_t size = chunk_size(&body, end);
        if (size <= 0 || end - body < size + 2 || body[size] != '\r' || body[size + 1] != '\n') {
            return 0;
        }
        const char *at = body;
        Py_ssize_t events = run_shape((Shape *)tap->shape, &at, body + size);
        if (at != body + size) {
            return 0;
        }
        if (stamp_tokens(tap, now, events) < 0) {
            return -1;
        }
        tap->bytes += size;
        *p = body + size + 2;
    }
    return 0;
}

/* `now`, moved back by how long the kernel has had the bytes. */
static double arrival(struct msghdr *message, double now, long long unix_ns) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(c), sizeof at);
            double age_s = (double)(unix_ns - (at.tv_sec * 1000000000LL + at.tv_nsec)) * 1e-9;
            if (EARLIEST_S < age_s && age_s < LATEST_S) {
                return now - age_s;
            }
        }
    }
    return now;
}

static int done(PyObject *result) {
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Read the socket once. -1 on an exception. */
static int tap_read(Tap *tap, double now, long long unix_ns) {
    char control[CMSG_SPACE(sizeof(struct timespec)) + 64];
    struct iovec into = {.iov_base = received, .iov_len = RECV_BYTES};
    struct msghdr message = {
        .msg_iov = &into, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(tap->fd, &message, MSG_DONTWAIT);
    if (size < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
            return 0;
        }
        return done(PyObject_CallFunction(tap->on_error, "i", errno));
    }
    if (size == 0) {
        return done(PyObject_CallNoArgs(tap->on_closed));
    }
    now = arrival(&message, now, unix_ns);
    tap->last_s = now;
    const char *p = received, *end = received + size;
    if (tap->shape != NULL && take_chunks(tap, now, &p, end) < 0) {
        return -1;
    }
    if (p == end) {
        return 0;
    }
    return done(PyObject_CallFunction(tap->on_bytes, "dy#", now, p, (Py_ssize_t)(end - p)));
}

/* ---- look ---- */

static long long ns_of(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* What waits for `fd` is a Tap, or a callable of (perf_counter seconds, unix ns). */
static int look_at(PyObject *waiting, int fd, double now, long long unix_ns) {
    PyObject *key = PyLong_FromLong(fd);
    if (key == NULL) {
        return -1;
    }
    PyObject *item = PyDict_GetItemWithError(waiting, key);
    Py_DECREF(key);
    if (item == NULL) { /* it ended in this very look */
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(item);
    int failed = Py_IS_TYPE(item, &TapType)
                     ? tap_read((Tap *)item, now, unix_ns)
                     : done(PyObject_CallFunction(item, "dL", now, unix_ns));
    Py_DECREF(item);
    return failed;
}

static PyObject *look(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    static struct epoll_event ready[MAX_READY];
    (void)module;
    if (n != 2 || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "look(epoll_fd, {fd: Tap or callable})");
        return NULL;
    }
    int epoll = (int)PyLong_AsLong(args[0]);
    if (epoll == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int found = epoll_wait(epoll, ready, MAX_READY, 0);
    if (found < 0 && errno != EINTR) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (found > 0) {
        /* perf_counter is this clock; a test holds that */
        double now = (double)ns_of(CLOCK_MONOTONIC) * 1e-9;
        long long unix_ns = ns_of(CLOCK_REALTIME);
        for (int i = 0; i < found; i++) {
            if (look_at(args[1], ready[i].data.fd, now, unix_ns) < 0) {
                return NULL;
            }
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"look", (PyCFunction)(void (*)(void))look, METH_FASTCALL,
     "look(epoll_fd, waiting): read each socket that has something, once."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tokenswarm._native",
    .m_doc = "The hot path's inner loop; see tokenswarm/native.py.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddType(made, &CounterType) < 0 ||
        PyModule_AddType(made, &ShapeType) < 0 || PyModule_AddType(made, &TapType) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
