package seeding

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"perigee/seedfile"
)

// many is more than etcd takes in a transaction that is not made of inner ones.
const many = 300

// store is an etcd of one member, with etcd's own limits, at ports that nobody has.
func store(t *testing.T) *clientv3.Client {
	t.Helper()
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	free := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.ListenClientUrls, config.AdvertiseClientUrls = free, free
	config.ListenPeerUrls, config.AdvertisePeerUrls = free, free
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	client, err := connect("http://" + server.Clients[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// file is a seed file of many keys.
func file(t *testing.T) string {
	t.Helper()
	values := make(map[string][]byte)
	for i := range many {
		values[fmt.Sprintf("%sthings/%d", registry, i)] = []byte("seed")
	}
	bytes, err := seedfile.Encode(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(path, bytes, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func count(t *testing.T, client *clientv3.Client) int64 {
	t.Helper()
	found, err := client.Get(t.Context(), "", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return found.Count
}

func expect(t *testing.T, client *clientv3.Client, path string, expected result) {
	t.Helper()
	if got, err := seed(t.Context(), client, path); err != nil || got != expected {
		t.Fatalf("%q, %v; expected %q", got, err, expected)
	}
}

func TestAnEmptyClusterIsSeededOnceAndNothingDeletedComesBack(t *testing.T) {
	client, path := store(t), file(t)
	expect(t, client, path, seeded)
	if n := count(t, client); n != many {
		t.Fatalf("%d keys, expected %d", n, many)
	}
	if _, err := client.Delete(t.Context(), registry+"things/7"); err != nil {
		t.Fatal(err)
	}
	expect(t, client, path, notEmpty)
	if n := count(t, client); n != many-1 {
		t.Errorf("%d keys, expected %d", n, many-1)
	}
}

func TestAClusterWithOneObjectIsLeftAlone(t *testing.T) {
	client := store(t)
	if _, err := client.Put(t.Context(), registry+"namespaces/default", "mine"); err != nil {
		t.Fatal(err)
	}
	expect(t, client, "/does/not/matter", notEmpty)
	if n := count(t, client); n != 1 {
		t.Errorf("%d keys, expected 1", n)
	}
}

// late is a store in which somebody else writes between the look and the write.
type late struct{ clientv3.KV }

func (l late) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	found, err := l.KV.Get(ctx, key, opts...)
	if err == nil {
		_, err = l.Put(ctx, registry+"namespaces/default", "mine")
	}
	return found, err
}

func TestWhoComesInBetweenWins(t *testing.T) {
	client := store(t)
	if got, err := seed(t.Context(), late{client}, file(t)); err != nil || got != notEmpty {
		t.Fatal(got, err)
	}
	if n := count(t, client); n != 1 {
		t.Errorf("%d keys, expected 1", n)
	}
}

func TestOfSeveralNodesAtOnceOneSeeds(t *testing.T) {
	client, path := store(t), file(t)
	var nodes sync.WaitGroup
	results := make(chan result, 8)
	for range cap(results) {
		nodes.Go(func() {
			got, err := seed(t.Context(), client, path)
			if err != nil {
				t.Error(err)
			}
			results <- got
		})
	}
	nodes.Wait()
	close(results)
	times := 0
	for got := range results {
		if got == seeded {
			times++
		}
	}
	if times != 1 {
		t.Errorf("seeded %d times", times)
	}
	if found, err := client.Get(t.Context(), registry+"things/7"); err != nil || found.Kvs[0].Version != 1 {
		t.Error(found, err)
	}
}

func TestADamagedFileIsRefusedAndNothingIsWritten(t *testing.T) {
	client, path := store(t), file(t)
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bytes[len(bytes)/2] ^= 1
	none, err := seedfile.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	for expected, contents := range map[string][]byte{"damaged": bytes, "no entries": none, "does not begin": nil} {
		if err := os.WriteFile(path, contents, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := seed(t.Context(), client, path); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v, expected %q", err, expected)
		}
	}
	if _, err := seed(t.Context(), client, path+".not-there"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if n := count(t, client); n != 0 {
		t.Errorf("%d keys were written", n)
	}
}

func TestWrongUseIsToldFromFailure(t *testing.T) {
	for _, row := range []struct {
		args []string
		code int
	}{
		{nil, 2}, {[]string{"a"}, 2}, {[]string{"seed", "unix:///not-there.sock"}, 1},
	} {
		// No time is left to look for the store that is not there.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if code := Main(ctx, row.args); code != row.code {
			t.Errorf("%v: exit code %d, expected %d", row.args, code, row.code)
		}
	}
}
