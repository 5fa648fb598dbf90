package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// bodyLimit is how much of an answer is read: the longest, /readyz of kube-apiserver, is under 4 KiB.
const bodyLimit = 64 << 10

// HTTP checks that a GET of address, which is on this machine, answers 200.
//
// Of https the certificate is not verified: the kernel delivers to 127.0.0.1 only what this machine sends, the
// check carries no secret, and these daemons serve certificates that they made for themselves.
func HTTP(address string) (Check, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("scheme is %q, expected http or https, as in http://127.0.0.1:10248/healthz", u.Scheme)
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("host is %q, expected this machine: 127.0.0.1 or [::1]", u.Hostname())
	}
	// A transport of its own: no proxy, HTTP/1.1, and one connection that stays open, because a TLS handshake
	// every few seconds is the dearest part of a check.
	client := &http.Client{
		Transport: &http.Transport{
			MaxConnsPerHost: 1,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // loopback only: see above
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body := io.LimitReader(response.Body, bodyLimit)
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s%s", address, response.Status, failedPart(body))
		}
		_, err = io.Copy(io.Discard, body)
		return err
	}, nil
}

// failedPart is the first line that names a failed part, in the form that Kubernetes and etcd share.
func failedPart(body io.Reader) string {
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "[-]") {
			return ": " + lines.Text()
		}
	}
	return ""
}
