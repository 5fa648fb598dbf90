package notify

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, tls bool, handler http.HandlerFunc) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	if tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.URL
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func ask(t *testing.T, url string) error {
	t.Helper()
	check, err := HTTP(url)
	if err != nil {
		t.Fatal(err)
	}
	return within(t.Context(), time.Second, check)
}

func Test200IsWellOverHTTPAndSelfSignedHTTPS(t *testing.T) {
	for _, tls := range []bool{false, true} {
		if err := ask(t, serve(t, tls, status(200, "ok"))); err != nil {
			t.Errorf("tls %v: %v", tls, err)
		}
	}
}

func TestAnyOtherStatusIsNotWell(t *testing.T) {
	for _, code := range []int{204, 302, 401, 403, 500, 503} {
		if ask(t, serve(t, false, status(code, ""))) == nil {
			t.Errorf("%d was taken for well", code)
		}
	}
}

func TestAnErrorNamesThePartThatFailed(t *testing.T) {
	err := ask(t, serve(t, false, status(500, "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\n")))
	if err == nil || !strings.HasSuffix(err.Error(), ": [-]etcd failed: reason withheld") {
		t.Errorf("error is %v", err)
	}
}

func TestAServerThatDoesNotAnswerMeetsTheDeadline(t *testing.T) {
	release := make(chan struct{})
	url := serve(t, false, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	check, err := HTTP(url)
	if err != nil {
		t.Fatal(err)
	}
	if within(t.Context(), 50*time.Millisecond, check) == nil {
		t.Error("a server that does not answer was taken for well")
	}
}

func TestChecksShareOneConnection(t *testing.T) {
	addresses := map[string]bool{}
	check, err := HTTP(serve(t, true, func(_ http.ResponseWriter, r *http.Request) { addresses[r.RemoteAddr] = true }))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := within(t.Context(), time.Second, check); err != nil {
			t.Fatal(err)
		}
	}
	if len(addresses) != 1 {
		t.Errorf("%d connections for 5 checks", len(addresses))
	}
}

func TestOnlyThisMachineIsAsked(t *testing.T) {
	for _, url := range []string{"https://10.0.0.1/", "http://localhost/", "ftp://127.0.0.1/", "127.0.0.1:80", ""} {
		if _, err := HTTP(url); err == nil {
			t.Errorf("%q was taken", url)
		}
	}
}
