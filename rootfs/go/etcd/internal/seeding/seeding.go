// Package seeding fills the store of an empty cluster with what an API server would create there for itself, one
// object after the other.
//
// All of it goes in by one transaction, which etcd takes only while there is no key of a cluster at all. So it does not
// matter when it comes, how often, or from how many nodes; and nothing that somebody deleted ever comes back.
package seeding

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"perigee/seedfile"
)

const usage = "usage: etcd-seed FILE ENDPOINT\n" +
	"example: etcd-seed /usr/share/perigee/seed unix:///run/etcd/client.sock\n"

const (
	// registry is what every key of a cluster begins with (kube-apiserver's --etcd-prefix, and a slash).
	registry = "/registry/"
	// deadline bounds one try: ten times what it takes under emulation. Without a quorum the service manager tries
	// again later, and nothing waits for it.
	deadline = 10 * time.Second
	// opsPerTxn is how many puts go into one inner transaction. etcd counts operations of the outer one and of one
	// inner one together, and takes 128 (--max-txn-ops; checkTxnRequest in etcdserver/api/v3rpc/key.go): with 64 in
	// each, 64 inner ones fit.
	opsPerTxn = 64
)

// Main is the program with its arguments; it returns the exit code: 0 done or nothing to do, 1 failed, 2 wrong use.
func Main(ctx context.Context, args []string) int {
	if len(args) != 2 {
		fmt.Fprintf(os.Stderr, "etcd-seed: %d arguments\n%s", len(args), usage)
		return 2
	}
	started := time.Now()
	result, err := run(ctx, args[0], args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "etcd-seed: file=%s error=%q\n", args[0], err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "etcd-seed: cluster=%s ms=%d\n", result, time.Since(started).Milliseconds())
	return 0
}

// result is what became of the cluster.
type result string

const (
	seeded   result = "seeded"
	notEmpty result = "not-empty"
)

func run(ctx context.Context, path, endpoint string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	client, err := connect(endpoint)
	if err != nil {
		return "", fmt.Errorf("%s: %w", endpoint, err)
	}
	defer client.Close()
	return seed(ctx, client, path)
}

func connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint},
		Logger:    zap.NewNop(), // what matters comes back as an error
	})
}

// seed reads the file only when the cluster is empty: a file that is damaged is of no matter to one that is not.
func seed(ctx context.Context, kv clientv3.KV, path string) (result, error) {
	found, err := kv.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return "", fmt.Errorf("look for a cluster: %w", err)
	}
	if len(found.Kvs) > 0 {
		return notEmpty, nil
	}
	entries, err := read(path)
	if err != nil {
		return "", err
	}
	answer, err := kv.Txn(ctx).If(empty()).Then(puts(entries)...).Commit()
	if err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	if !answer.Succeeded {
		return notEmpty, nil
	}
	return seeded, nil
}

func read(path string) ([]seedfile.Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bytes, err := io.ReadAll(io.LimitReader(file, seedfile.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	entries, err := seedfile.Decode(bytes)
	if err == nil && len(entries) == 0 {
		err = errors.New("has no entries")
	}
	if err != nil {
		return nil, fmt.Errorf("not a seed file: %w", err)
	}
	return entries, nil
}

// empty holds while no key of a cluster is there: of a range without keys etcd compares the revision 0.
func empty() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(registry).WithPrefix(), "=", 0)
}

// puts are inner transactions without conditions: etcd applies them with the outer one, all or nothing.
func puts(entries []seedfile.Entry) (txns []clientv3.Op) {
	for chunk := range slices.Chunk(entries, opsPerTxn) {
		ops := make([]clientv3.Op, 0, len(chunk))
		for _, entry := range chunk {
			ops = append(ops, clientv3.OpPut(string(entry.Key), string(entry.Value)))
		}
		txns = append(txns, clientv3.OpTxn(nil, ops, nil))
	}
	return txns
}
