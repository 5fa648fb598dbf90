// Package cri asks a container runtime whether it serves the Kubernetes container runtime interface.
package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"perigee/notify"
)

// redialPeriod is how soon a socket that was not there is tried again. gRPC's own goes up to two minutes.
const redialPeriod = 100 * time.Millisecond

// Answers checks that the runtime at address, as in unix:///run/containerd/containerd.sock, answers the CRI's
// Version. containerd answers it only when its CRI plugin is initialized, which is what the kubelet waits for.
func Answers(address string) (notify.Check, error) {
	if !strings.HasPrefix(address, "unix:///") {
		return nil, fmt.Errorf("expected a unix socket, as in unix:///run/containerd/containerd.sock")
	}
	redial := backoff.Config{BaseDelay: redialPeriod, Multiplier: 1, MaxDelay: redialPeriod}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: redial, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, err
	}
	client := runtime.NewRuntimeServiceClient(conn)
	return func(ctx context.Context) error {
		_, err := client.Version(ctx, &runtime.VersionRequest{})
		return err
	}, nil
}
