/* A fast streaming server for benchmarks: one thread, epoll, HTTP/1.1 keep-alive, loopback only.
 *
 * Any request to the streaming path is answered with `tokens` chunks, the first one `ttft` after
 * the request was complete, the others `itl` apart, on an absolute schedule, each in one send(2).
 * /v1/chat/completions streams as vLLM does (SSE), /api/chat as Ollama does (NDJSON). /_stats says
 * what was served and how late it was, /_log when each request came and when it was answered. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define MODEL "bench"

enum {
    MAX_CONNS = 8192,
    IN_BYTES = 8192,     /* a request's head must fit; bodies are thrown away as they come */
    OUT_BYTES = 1 << 14, /* one write: a token with what surrounds it, or a control document */
    WORD_BYTES = 64,     /* a path or a request id; longer ones are cut */
    LOG_ROWS = 1 << 17,  /* the oldest are overwritten */
    LOG_PAGE = 64,       /* rows a reply; fits a socket's buffer in one write */
};

struct conn {
    int fd, at; /* at: place in the heap, from 1; 0 while no stream runs */
    enum { HEAD, BODY, STREAM } state;
    bool closing;
    size_t used;
    long long body_left;
    int sent;
    uint64_t serial;
    int64_t due, got, first; /* ns; due: CLOCK_MONOTONIC; got, first: CLOCK_REALTIME */
    char path[WORD_BYTES], id[WORD_BYTES], in[IN_BYTES];
};

struct row {
    char id[WORD_BYTES];
    int64_t got, first, last;
    int tokens;
};

static struct {
    int port, tokens;
    int64_t ttft, itl;
    bool spread, ollama;
} config = {.tokens = 64, .ttft = 20000000, .itl = 5000000};

static struct {
    unsigned long long requests, tokens, late, dropped, refused;
    long long late_sum, late_max;
} stats;

static struct conn *heap[MAX_CONNS + 1]; /* running streams by due, from 1 */
static int heap_n, conn_n, epoll_fd;
static struct row rows[LOG_ROWS];
static uint64_t row_n;
static struct {
    size_t n;
    char bytes[OUT_BYTES];
} out;

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

/* ---- the schedule: a binary heap of streams by their next write ---- */

static void heap_put(int i, struct conn *c) {
    heap[i] = c;
    c->at = i;
}

static void heap_sift(struct conn *c) {
    int i = c->at;
    for (; i > 1 && heap[i / 2]->due > c->due; i /= 2)
        heap_put(i, heap[i / 2]);
    for (int kid; (kid = 2 * i) <= heap_n; i = kid) {
        if (kid < heap_n && heap[kid + 1]->due < heap[kid]->due)
            kid++;
        if (heap[kid]->due >= c->due)
            break;
        heap_put(i, heap[kid]);
    }
    heap_put(i, c);
}

static void heap_remove(struct conn *c) {
    struct conn *last = heap[heap_n--];
    if (last != c) {
        heap_put(c->at, last);
        heap_sift(last);
    }
    c->at = 0;
}

/* ---- what a stream says ---- */

/* Append to `out`. Every size is ours: a text that does not fit is a bug here. */
static void put(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out.bytes + out.n, OUT_BYTES - out.n, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= OUT_BYTES - out.n)
        abort();
    out.n += (size_t)n;
}

static void put_chunk(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        abort();
    put("%x\r\n%s\r\n", (unsigned)n, text);
}

static void put_event(const struct conn *c, const char *rest) {
    put_chunk("data: {\"id\":\"chatcmpl-%016llx\",\"object\":\"chat.completion.chunk\","
              "\"created\":%lld,\"model\":\"" MODEL "\",\"choices\":[%s}\n\n",
              (unsigned long long)c->serial, (long long)(c->got / NS), rest);
}

static void put_line(const char *content, const char *rest) {
    char at[32];
    struct tm tm;
    int64_t t = now(CLOCK_REALTIME);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", gmtime_r(&(time_t){t / NS}, &tm));
    put_chunk("{\"model\":\"" MODEL "\",\"created_at\":\"%s.%09lldZ\",\"message\":"
              "{\"role\":\"assistant\",\"content\":\"%s\"},\"done\":%s}\n",
              at, (long long)(t % NS), content, rest);
}

static void put_token(const struct conn *c) {
    if (config.ollama)
        put_line(" token", "false");
    else
        put_event(c, "{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,"
                     "\"finish_reason\":null,\"token_ids\":null}]");
}

static void put_head(void) {
    put("HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n",
        config.ollama ? "application/x-ndjson" : "text/event-stream; charset=utf-8");
}

static void put_end_openai(const struct conn *c) {
    char usage[128];
    snprintf(usage, sizeof usage,
             "],\"usage\":{\"prompt_tokens\":13,\"total_tokens\":%d,\"completion_tokens\":%d}",
             13 + config.tokens, config.tokens);
    put_event(c, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\","
                 "\"stop_reason\":null}]");
    put_event(c, usage);
    put_chunk("data: [DONE]\n\n");
}

static void put_end_ollama(void) {
    char rest[512];
    long long decode_ns = config.itl * (config.tokens - 1) + 1, prefill_ns = config.ttft + 1;
    snprintf(rest, sizeof rest,
             "true,\"done_reason\":\"length\",\"total_duration\":%lld,\"load_duration\":1000,"
             "\"prompt_eval_count\":13,\"prompt_eval_duration\":%lld,\"eval_count\":%d,"
             "\"eval_duration\":%lld",
             decode_ns + prefill_ns + 1000, prefill_ns, config.tokens, decode_ns);
    put_line("", rest);
}

/* ---- streams ---- */

static void drop(struct conn *c) {
    if (c->at)
        heap_remove(c);
    conn_n--;
    close(c->fd);
    free(c);
}

/* Send `out` in one write; a client that does not read is dropped, never waited for. */
static bool send_out(struct conn *c) {
    ssize_t n = send(c->fd, out.bytes, out.n, MSG_NOSIGNAL);
    bool whole = n == (ssize_t)out.n;
    out.n = 0;
    if (!whole) {
        stats.dropped++;
        drop(c);
    }
    return whole;
}

/* Headers: vLLM sends them before it has a token, Ollama with the first one. A spread moves a first
 * token by up to one itl, on a new connection by up to a whole request, lest all end at once. */
static void start_stream(struct conn *c) {
    static uint64_t serial, dice = 88172645463325252ULL;
    dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
    int64_t range = config.itl + (c->serial ? 0 : config.ttft + config.itl * config.tokens);
    c->state = STREAM, c->sent = 0, c->serial = ++serial;
    c->due = now(CLOCK_MONOTONIC) + config.ttft;
    c->due += config.spread && range ? (int64_t)(dice % (uint64_t)range) : 0;
    heap_put(++heap_n, c);
    heap_sift(c);
    if (!config.ollama) {
        put_head();
        send_out(c);
    }
}

static void count_lateness(int64_t late) {
    stats.late_sum += late;
    stats.late += late > NS / 1000;
    stats.late_max = late > stats.late_max ? late : stats.late_max;
}

static void take_input(struct conn *c);

static void end_stream(struct conn *c, int64_t last) {
    struct row *r = &rows[row_n++ % LOG_ROWS];
    memcpy(r->id, c->id, WORD_BYTES);
    r->got = c->got, r->first = c->first, r->last = last, r->tokens = c->sent;
    stats.requests++;
    heap_remove(c);
    c->state = HEAD;
    c->closing ? drop(c) : take_input(c);
}

static void write_token(struct conn *c) {
    int64_t at = now(CLOCK_REALTIME);
    count_lateness(now(CLOCK_MONOTONIC) - c->due);
    if (c->sent == 0) {
        c->first = at;
        if (config.ollama)
            put_head();
        else
            put_event(c, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                         "\"logprobs\":null,\"finish_reason\":null}]");
    }
    put_token(c);
    if (++c->sent == config.tokens) {
        config.ollama ? put_end_ollama() : put_end_openai(c);
        put("0\r\n\r\n");
    }
    c->due += config.itl;
    if (!send_out(c))
        return;
    stats.tokens++;
    if (c->sent == config.tokens)
        end_stream(c, at);
    else
        heap_sift(c);
}

/* ---- control documents ---- */

static void put_stats(void) {
    put("{\"requests\":%llu,\"tokens\":%llu,\"streams\":%d,\"late_1ms\":%llu,\"late_sum_ns\":%lld,"
        "\"late_max_ns\":%lld,\"dropped\":%llu,\"refused\":%llu}\n",
        stats.requests, stats.tokens, heap_n, stats.late, stats.late_sum, stats.late_max,
        stats.dropped, stats.refused);
}

/* Rows from `from` on, at most a page of them: [id, received, first token, last token, tokens]. */
static void put_log(uint64_t from) {
    if (row_n > LOG_ROWS && from < row_n - LOG_ROWS)
        from = row_n - LOG_ROWS;
    uint64_t end = from + LOG_PAGE < row_n ? from + LOG_PAGE : row_n;
    put("{\"next\":%llu,\"rows\":[", (unsigned long long)end);
    for (uint64_t i = from; i < end; i++) {
        const struct row *r = &rows[i % LOG_ROWS];
        put("%s[\"%s\",%lld,%lld,%lld,%d]", i > from ? "," : "", r->id, (long long)r->got,
            (long long)r->first, (long long)r->last, r->tokens);
    }
    put("]}\n");
}

static const char *engine_doc(const char *path) {
    static const struct {
        bool ollama;
        const char *path, *doc;
    } docs[] = {
        {true, "/", "Ollama is running"},
        {true, "/api/version", "{\"version\":\"0.33.0\"}"},
        {true, "/api/tags",
         "{\"models\":[{\"name\":\"" MODEL "\",\"model\":\"" MODEL "\",\"size\":1000000,"
         "\"modified_at\":\"2026-01-01T00:00:00Z\",\"digest\":\"0\",\"details\":{}}]}"},
        {true, "/api/ps",
         "{\"models\":[{\"name\":\"" MODEL "\",\"model\":\"" MODEL "\",\"size\":1000000,"
         "\"digest\":\"0\",\"details\":{},\"expires_at\":\"2318-01-01T00:00:00Z\","
         "\"size_vram\":1000000,\"context_length\":4096}]}"},
        {false, "/version", "{\"version\":\"0.24.0\"}"},
        {false, "/health", ""},
        {false, "/v1/models",
         "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\",\"created\":1,"
         "\"owned_by\":\"vllm\",\"max_model_len\":4096}]}"},
    };
    for (size_t i = 0; i < sizeof docs / sizeof *docs; i++)
        if (docs[i].ollama == config.ollama && !strcmp(path, docs[i].path))
            return docs[i].doc;
    return NULL;
}

/* Send the control document at c->path. False: the connection is gone. */
static bool answer(struct conn *c) {
    const char *doc = engine_doc(c->path);
    bool found = doc || !strcmp(c->path, "/_stats") || !strncmp(c->path, "/_log", 5);
    put("HTTP/1.1 %s\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        found ? "200 OK" : "404 Not Found");
    size_t size_at = out.n; /* the size is not known yet: six digits are kept free for it */
    put("000000\r\n");
    size_t body_at = out.n;
    if (doc || !found)
        put("%s", doc ? doc : "{\"error\":\"not found\"}");
    else if (c->path[2] == 's')
        put_stats();
    else
        put_log(strtoull(strchr(c->path, '=') ? strchr(c->path, '=') + 1 : "0", NULL, 10));
    char size[8];
    snprintf(size, sizeof size, "%06zx", out.n - body_at);
    memcpy(out.bytes + size_at, size, 6);
    put(out.n > body_at ? "\r\n0\r\n\r\n" : "\r\n");
    c->state = HEAD;
    if (!send_out(c))
        return false;
    if (!c->closing)
        return true;
    drop(c);
    return false;
}

/* ---- requests ---- */

/* The value of a header in a head that ends with a NUL; NULL when it is not there. */
static const char *header(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) + strspn(found + strlen(name), " ") : NULL;
}

/* Copy up to the next space, cut to a word and made fit for a JSON string. */
static void copy_word(char *to, const char *from) {
    size_t n = 0;
    for (; from && n < WORD_BYTES - 1 && from[n] > ' ' && from[n] <= '~'; n++)
        to[n] = from[n] == '"' || from[n] == '\\' ? '_' : from[n];
    to[n] = 0;
}

static void consume(struct conn *c, size_t n) {
    c->used -= n;
    memmove(c->in, c->in + n, c->used);
}

/* Read a request's head. False: more is needed, or it was refused and the connection is gone. */
static bool take_head(struct conn *c) {
    char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end && c->used < IN_BYTES)
        return false;
    if (end)
        *end = 0;
    const char *target = end ? strchr(c->in, ' ') : NULL;
    if (!target || header(c->in, "\r\ntransfer-encoding:")) {
        stats.refused++;
        drop(c);
        return false;
    }
    const char *length = header(c->in, "\r\ncontent-length:");
    const char *connection = header(c->in, "\r\nconnection:");
    c->body_left = length ? (long long)(strtoull(length, NULL, 10) & INT64_MAX) : 0;
    c->closing = connection && !strncasecmp(connection, "close", 5);
    copy_word(c->path, target + 1);
    copy_word(c->id, header(c->in, "\r\nx-request-id:"));
    consume(c, (size_t)(end - c->in) + 4);
    c->state = BODY;
    return true;
}

/* Begin the answer. True: it is complete, and the next request may be taken. */
static bool respond(struct conn *c) {
    c->got = now(CLOCK_REALTIME);
    if (strcmp(c->path, config.ollama ? "/api/chat" : "/v1/chat/completions"))
        return answer(c);
    start_stream(c);
    return false;
}

/* Take what has arrived as far as it goes: a head, its body, the answer, the next head. */
static void take_input(struct conn *c) {
    do {
        if (c->state == HEAD && !take_head(c))
            return;
        size_t n = c->body_left < (long long)c->used ? (size_t)c->body_left : c->used;
        consume(c, n);
        c->body_left -= (long long)n;
    } while (!c->body_left && respond(c));
}

static void read_from(struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->used, IN_BYTES - c->used, 0);
    c->used += n > 0 ? (size_t)n : 0;
    if (n <= 0) /* gone, or it talks too much while it should listen */
        drop(c);
    else if (c->state != STREAM)
        take_input(c);
}

static void accept_from(int listener) {
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct conn *c = fd < 0 || conn_n == MAX_CONNS ? NULL : calloc(1, sizeof *c);
    if (!c) {
        stats.refused++;
        close(fd);
        return;
    }
    conn_n++;
    c->fd = fd;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
        drop(c);
}

static int listen_on_loopback(void) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)config.port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (void *)&a, size) || listen(fd, 1024) ||
        getsockname(fd, (void *)&a, &size) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
        err(1, "cannot listen on 127.0.0.1");
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(int listener) {
    struct epoll_event events[256];
    for (;;) {
        int64_t wait = heap_n ? heap[1]->due - now(CLOCK_MONOTONIC) : 0;
        struct timespec t = {wait > 0 ? wait / NS : 0, wait > 0 ? wait % NS : 0};
        int n = epoll_pwait2(epoll_fd, events, 256, heap_n ? &t : NULL, NULL);
        if (n < 0 && errno != EINTR)
            err(1, "epoll_pwait2");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            c ? read_from(c) : accept_from(listener);
        }
        for (int64_t until = now(CLOCK_MONOTONIC); heap_n && heap[1]->due <= until;)
            write_token(heap[1]);
    }
}

static double number(const char *text, double least, double most) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= least && x <= most))
        errx(2, "%s: give a number from %g to %g", text, least, most);
    return x;
}

static void parse(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "p:n:t:i:os")) != -1;) {
        switch (option) {
        case 'p': config.port = (int)number(optarg, 0, 65535); break;
        case 'n': config.tokens = (int)number(optarg, 1, 100000); break;
        case 't': config.ttft = (int64_t)(number(optarg, 0, 60000) * 1e6); break;
        case 'i': config.itl = (int64_t)(number(optarg, 0, 60000) * 1e6); break;
        case 'o': config.ollama = true; break;
        case 's': config.spread = true; break;
        default:
            errx(2, "options: -p port, -n tokens, -t ttft_ms, -i itl_ms, -o (speak as Ollama, not "
                    "vLLM), -s (spread first tokens)");
        }
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the benchmark */
    prctl(PR_SET_TIMERSLACK, 1000UL);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        err(1, "epoll_create1");
    serve(listen_on_loopback());
}
