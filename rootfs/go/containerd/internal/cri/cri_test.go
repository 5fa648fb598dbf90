package cri

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type versionOnly struct {
	runtime.UnimplementedRuntimeServiceServer
}

func (versionOnly) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{}, nil
}

func TestARuntimeThatComesUpLateIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri")
	check, err := Answers("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if check(t.Context()) == nil {
		t.Error("a socket that is not there was taken for a runtime")
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(server, versionOnly{})
	go server.Serve(listener) //nolint:errcheck // Stop ends it
	defer server.Stop()
	for range 50 {
		if err = check(t.Context()); err == nil {
			return
		}
		time.Sleep(redialPeriod)
	}
	t.Error(err)
}

func TestAServerWithoutTheCRIIsNotARuntime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go server.Serve(listener) //nolint:errcheck // Stop ends it
	defer server.Stop()
	check, err := Answers("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if check(t.Context()) == nil {
		t.Error("it was taken for one")
	}
}

func TestOnlyAUnixSocketIsAsked(t *testing.T) {
	for _, address := range []string{"", "/run/x.sock", "tcp://127.0.0.1:1", "unix:relative"} {
		if _, err := Answers(address); err == nil {
			t.Errorf("%q was taken", address)
		}
	}
}
