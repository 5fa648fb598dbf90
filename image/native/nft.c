/*
 * The command line of `nft` for the image: upstream's options that kube-proxy and the CNI plugins use, in front of
 * upstream's libnftables. It exists because Debian's own `nft` needs a line editor and its terminal library, which
 * have no place in an image without a shell, and because a static program must not look protocols up through NSS.
 */
#include <getopt.h>
#include <netdb.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Assigned Internet Protocol Numbers (IANA), as far as libnftables and kube-proxy name them. */
static struct protoent protocols[] = {
	{ "ip", NULL, 0 },    { "icmp", NULL, 1 },  { "igmp", NULL, 2 },       { "tcp", NULL, 6 },
	{ "udp", NULL, 17 },  { "dccp", NULL, 33 }, { "gre", NULL, 47 },       { "esp", NULL, 50 },
	{ "ah", NULL, 51 },   { "ipv6", NULL, 41 }, { "ipv6-icmp", NULL, 58 }, { "icmpv6", NULL, 58 },
	{ "comp", NULL, 108 }, { "sctp", NULL, 132 }, { "udplite", NULL, 136 },
};
#define PROTOCOLS (sizeof(protocols) / sizeof(protocols[0]))

/* Instead of glibc's, which read /etc/protocols through NSS: the image has neither. */
struct protoent *getprotobyname(const char *name)
{
	for (size_t i = 0; i < PROTOCOLS; i++)
		if (strcmp(protocols[i].p_name, name) == 0)
			return &protocols[i];
	return NULL;
}

struct protoent *getprotobynumber(int number)
{
	for (size_t i = 0; i < PROTOCOLS; i++)
		if (protocols[i].p_proto == number)
			return &protocols[i];
	return NULL;
}

/*
 * libnftables calls libxtables only for rules that iptables-nft made with xt matches. Nothing in the image makes
 * such rules, so that no extension is ever found: libnftables then prints the rule's name and goes on.
 */
void xtables_init_all(void) {}
void xtables_set_nfproto(unsigned char family) { (void)family; }
void *xtables_find_match(const char *name, int load, void *matches) { (void)name, (void)load, (void)matches; return NULL; }
void *xtables_find_target(const char *name, int load) { (void)name, (void)load; return NULL; }
void *xt_xlate_alloc(int size) { (void)size; return NULL; }
void xt_xlate_free(void *xlate) { (void)xlate; }
const char *xt_xlate_get(void *xlate) { (void)xlate; return ""; }

static const struct option options[] = {
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'v' },
	{ "check", no_argument, NULL, 'c' },
	{ "file", required_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },
	{ "handle", no_argument, NULL, 'a' },
	{ "echo", no_argument, NULL, 'e' },
	{ "stateless", no_argument, NULL, 's' },
	{ "terse", no_argument, NULL, 't' },
	{ "numeric", no_argument, NULL, 'n' },
	{ "numeric-priority", no_argument, NULL, 'y' },
	{ "numeric-protocol", no_argument, NULL, 'p' },
	{ NULL, 0, NULL, 0 },
};

static const char usage[] =
	"Usage: nft [-c] [-j] [-a] [-e] [-s] [-t] [-n] [-y] [-p] { -f FILE | COMMAND... }\n"
	"  -c --check  -j --json  -a --handle  -e --echo  -s --stateless  -t --terse  -f --file FILE (- is stdin)\n"
	"  -n --numeric  -y --numeric-priority  -p --numeric-protocol  -v --version\n";

/* The words of a command joined by spaces, as the library wants them; NULL when memory is out. */
static char *join(char *const words[], int count)
{
	size_t length = 1;

	for (int i = 0; i < count; i++)
		length += strlen(words[i]) + 1;
	char *line = calloc(1, length);
	if (line == NULL)
		return NULL;
	for (int i = 0; i < count; i++) {
		if (i > 0)
			strcat(line, " ");
		strcat(line, words[i]);
	}
	return line;
}

int main(int argc, char *argv[])
{
	const char *file = NULL;
	unsigned int output = 0;
	bool check = false;
	int option;

	while ((option = getopt_long(argc, argv, "+hvcf:jaestnyp", options, NULL)) != -1) {
		switch (option) {
		case 'h': fputs(usage, stdout); return EXIT_SUCCESS;
		case 'v': puts("nftables v" NFTABLES_VERSION " (static, Perigee)"); return EXIT_SUCCESS;
		case 'c': check = true; break;
		case 'f': file = strcmp(optarg, "-") == 0 ? "/dev/stdin" : optarg; break;
		case 'j': output |= NFT_CTX_OUTPUT_JSON; break;
		case 'a': output |= NFT_CTX_OUTPUT_HANDLE; break;
		case 'e': output |= NFT_CTX_OUTPUT_ECHO; break;
		case 's': output |= NFT_CTX_OUTPUT_STATELESS; break;
		case 't': output |= NFT_CTX_OUTPUT_TERSE; break;
		case 'n': output |= NFT_CTX_OUTPUT_NUMERIC_ALL; break;
		case 'y': output |= NFT_CTX_OUTPUT_NUMERIC_PRIO; break;
		case 'p': output |= NFT_CTX_OUTPUT_NUMERIC_PROTO; break;
		default: fputs(usage, stderr); return EXIT_FAILURE;
		}
	}
	if ((file == NULL) == (optind == argc)) {
		fputs(usage, stderr);
		return EXIT_FAILURE;
	}
	struct nft_ctx *context = nft_ctx_new(NFT_CTX_DEFAULT);
	char *command = join(argv + optind, argc - optind);
	if (context == NULL || command == NULL) {
		fputs("nft: out of memory\n", stderr);
		return EXIT_FAILURE;
	}
	nft_ctx_set_dry_run(context, check);
	nft_ctx_output_set_flags(context, output);
	int failed = file != NULL ? nft_run_cmd_from_filename(context, file) : nft_run_cmd_from_buffer(context, command);
	nft_ctx_free(context);
	free(command);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
