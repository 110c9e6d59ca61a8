/* One client of the load: its steps from connect to close, driven by epoll's edges. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)

long launched, target, finished, errors, ready, busy, resumed, latencies;
long long received, sent;
uint32_t *latency;
char first_error[160];
int poll_fd;
struct conn **roster;

static char input[CHUNK], filler[CHUNK];
static long latency_room;
static SSL_CTX *tls;
static SSL_SESSION *ticket;
static struct sockaddr_in proxy = { .sin_family = AF_INET };

uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void note_latency(struct conn *c)
{
	if (latencies < latency_room)
		latency[latencies++] = (now() - c->started) / 1000;
}

static void discard(struct conn *c)
{
	SSL_free(c->ssl);
	close(c->fd);
	free(c);
	launch();
}

static void fail(struct conn *c, const char *why)
{
	static const char *steps[] = { "connect", "handshake", "greeting", "login", "idle", "work",
				       "logout", "close" };
	if (!errors++)
		snprintf(first_error, sizeof first_error, "%s: %.100s", steps[c->step], why);
	if (c->step == READY)
		ready--;
	if (c->step == WORK)
		busy--;
	finished++;
	discard(c);
}

static void command(struct conn *c, const char *text)
{
	c->out_len = snprintf(c->out, sizeof c->out, "%s", text);
	c->out_done = 0;
}

void next_work(struct conn *c)
{
	char text[96];
	long long share = opt.bytes / opt.sessions;
	if (!c->left--) {
		c->step = READY;
		busy--;
		return;
	}
	c->started = now();
	if (opt.mode == PING)
		snprintf(text, sizeof text, "c NOOP\r\n");
	else if (opt.mode == FETCH)
		snprintf(text, sizeof text, "c FETCH %lld\r\n", share);
	else
		snprintf(text, sizeof text, "c APPEND INBOX {%lld}\r\n", share);
	command(c, text);
}

/* One complete line has come; 0: go on, -1: the connection has failed. */
static int take_line(struct conn *c)
{
	char text[200];
	const char *line = c->line;
	size_t len = c->line_len;
	c->line_len = 0;
	c->line[len] = 0;
	if (len > 3 && line[len - 3] == '}') {
		const char *open = memrchr(line, '{', len);
		c->skip = open ? atoll(open + 1) : 0;
	} else if (c->step == GREETING) {
		if (strncmp(line, "* OK", 4))
			return -1;
		snprintf(text, sizeof text, "a LOGIN %s %s\r\n", opt.user, opt.password);
		command(c, text);
		c->step = LOGIN;
	} else if (c->step == LOGIN && !strncmp(line, "a ", 2)) {
		if (strncmp(line, "a OK", 4))
			return -1;
		c->step = READY;
		if (opt.mode == LOGINS) {
			note_latency(c);
			command(c, "b LOGOUT\r\n");
			c->step = LOGOUT;
		} else {
			roster[ready++] = c;
			launch();
		}
	} else if (c->step == WORK && line[0] == '+') {
		c->upload = opt.bytes / opt.sessions;
	} else if (c->step == WORK && !strncmp(line, "c ", 2)) {
		if (strncmp(line, "c OK", 4))
			return -1;
		note_latency(c);
		next_work(c);
	} else if (c->step == LOGOUT && !strncmp(line, "b OK", 4)) {
		c->step = CLOSE;
	}
	return 0;
}

static int take(struct conn *c, const char *data, size_t n)
{
	while (n) {
		size_t used = n;
		if (c->skip) {
			if ((long long)used > c->skip)
				used = c->skip;
			c->skip -= used;
			received += used;
		} else {
			const char *end = memchr(data, '\n', n);
			if (end)
				used = end - data + 1;
			size_t room = sizeof c->line - 1 - c->line_len;
			size_t kept = used < room ? used : room;
			memcpy(c->line + c->line_len, data, kept);
			c->line_len += kept;
			if (end && take_line(c))
				return -1;
		}
		data += used;
		n -= used;
	}
	return 0;
}

/* Bytes moved, 0: try again later, -1: closed or broken. */
static ssize_t tls_result(struct conn *c, int n)
{
	if (n > 0)
		return n;
	int why = SSL_get_error(c->ssl, n);
	ERR_clear_error();
	return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t get(struct conn *c)
{
	if (c->ssl)
		return tls_result(c, SSL_read(c->ssl, input, sizeof input));
	ssize_t n = recv(c->fd, input, sizeof input, 0);
	return n > 0 ? n : n < 0 && errno == EAGAIN ? 0 : -1;
}

static ssize_t put(struct conn *c, const char *data, size_t len)
{
	if (c->ssl)
		return tls_result(c, SSL_write(c->ssl, data, len));
	ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
	return n >= 0 ? n : errno == EAGAIN ? 0 : -1;
}

static int flush(struct conn *c)
{
	for (;;) {
		ssize_t n;
		if (c->out_done < c->out_len) {
			n = put(c, c->out + c->out_done, c->out_len - c->out_done);
			c->out_done += n > 0 ? n : 0;
		} else if (c->upload) {
			n = put(c, filler, c->upload < CHUNK ? c->upload : CHUNK);
			c->upload -= n > 0 ? n : 0;
			sent += n > 0 ? n : 0;
			if (!c->upload)
				command(c, "\r\n");
		} else {
			return 0;
		}
		if (n <= 0)
			return n;
	}
}

/* Hands out copies: OpenSSL spoils the object of a session that ends without close_notify. */
static void use_ticket(SSL *ssl)
{
	SSL_SESSION *copy = ticket ? SSL_SESSION_dup(ticket) : NULL;
	if (copy)
		SSL_set_session(ssl, copy);
	SSL_SESSION_free(copy);
}

/* Two functions that libssl calls here instead of in libcrypto, so that clients wait for the proxy and
 * not for the load: the proxy's certificate, the same one each time, is read once, which was a third of
 * a client's work, and its signature is taken on trust, which was a fifth of the rest. */
int EVP_DigestVerify(EVP_MD_CTX *ctx, const unsigned char *signature, size_t length,
		     const unsigned char *text, size_t text_length)
{
	(void)ctx, (void)signature, (void)length, (void)text, (void)text_length;
	return 1;
}

X509 *d2i_X509(X509 **into, const unsigned char **bytes, long length)
{
	static unsigned char known[8192];
	static long known_length;
	static X509 *certificate;
	if (length > (long)sizeof known)
		return NULL;
	if (length != known_length || memcmp(*bytes, known, length)) {
		const unsigned char *start = *bytes;
		X509 *fresh = (X509 *)ASN1_item_d2i(NULL, bytes, length, ASN1_ITEM_rptr(X509));
		if (!fresh)
			return NULL;
		X509_free(certificate);
		certificate = fresh;
		memcpy(known, start, known_length = length);
	} else {
		*bytes += length;
	}
	X509_up_ref(certificate);
	if (into) {
		X509_free(*into);
		*into = certificate;
	}
	return certificate;
}

/* Carries the connection to its first byte; 1: it is there, 0: later, -1: broken. */
static int establish(struct conn *c, unsigned events)
{
	if (c->step == CONNECT) {
		int broken = 0;
		socklen_t len = sizeof broken;
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &broken, &len);
		if (broken)
			return -1;
		if (!(events & EPOLLOUT))
			return 0;
		c->step = opt.tls ? HANDSHAKE : GREETING;
		if (opt.tls) {
			c->ssl = SSL_new(tls);
			SSL_set_fd(c->ssl, c->fd);
			use_ticket(c->ssl);
		}
	}
	if (c->step == HANDSHAKE) {
		ssize_t n = tls_result(c, SSL_connect(c->ssl));
		if (n <= 0)
			return n;
		resumed += SSL_session_reused(c->ssl);
		c->step = GREETING;
	}
	return 1;
}

void drive(struct conn *c, unsigned events)
{
	if (c->step <= HANDSHAKE) {
		int there = establish(c, events);
		if (there < 0)
			fail(c, "broken");
		if (there <= 0)
			return;
	}
	for (;;) {
		if (flush(c) < 0) {
			fail(c, "can't write");
			return;
		}
		ssize_t n = get(c);
		if (n == 0)
			return;
		if (n < 0 && c->step == CLOSE) {
			finished++;
			discard(c);
			return;
		}
		if (n < 0 || take(c, input, n) < 0) {
			fail(c, n < 0 ? "closed by the proxy" : c->line);
			return;
		}
	}
}

void launch(void)
{
	if (launched >= target)
		return;
	launched++;
	struct conn *c = calloc(1, sizeof *c);
	int on = 1;
	if (!c)
		abort();
	c->started = now();
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c };
	if (c->fd < 0 || (connect(c->fd, (struct sockaddr *)&proxy, sizeof proxy) && errno != EINPROGRESS)
	    || epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &ev)) {
		perror("connect");
		exit(1);
	}
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session)
{
	(void)ssl;
	SSL_SESSION_free(ticket);
	ticket = SSL_SESSION_dup(session);
	return 0;
}

void prepare_client(void)
{
	proxy.sin_port = htons(opt.port);
	proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	memset(filler, 'x', sizeof filler);
	latency_room = opt.count > opt.sessions ? opt.count : opt.sessions;
	latency = calloc(latency_room, sizeof *latency);
	roster = calloc(opt.sessions, sizeof *roster);
	poll_fd = epoll_create1(0);
	tls = SSL_CTX_new(TLS_client_method());
	if (!latency || !roster || !tls)
		abort();
	SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
				      | SSL_MODE_RELEASE_BUFFERS);
	if (opt.resume) {
		SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(tls, keep_ticket);
	}
}
