package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/kubeapiserver"
)

// root is what kube-apiserver's keys begin with (--etcd-prefix).
const root = "/registry"

// created is every object's creationTimestamp: 2000-01-01T00:00:00Z. No clock at build, and none of the node's, which
// may be wrong at a first boot; it is before every other object's.
var created = metav1.NewTime(time.Unix(946684800, 0).UTC())

// factory is kube-apiserver's: which version of a resource is stored, how it is encoded, and below which key.
func factory() (*serverstorage.DefaultStorageFactory, error) {
	etcd := options.NewEtcdOptions(storagebackend.NewDefaultConfig(root, nil))
	etcd.DefaultStorageMediaType = runtime.ContentTypeProtobuf // as kube-apiserver's own options (--storage-media-type)
	return kubeapiserver.NewStorageFactoryConfig().Complete(etcd).New()
}

// stored is what the API server's store has after each of the objects was created: values by key.
func stored(kinds []kind) (map[string][]byte, error) {
	factory, err := factory()
	if err != nil {
		return nil, err
	}
	values := make(map[string][]byte)
	for _, kind := range kinds {
		for _, object := range kind.objects {
			key, value, err := kind.store(factory, object.DeepCopyObject())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.resource, err)
			}
			if _, twice := values[key]; twice {
				return nil, fmt.Errorf("%s: upstream's tables have it twice", key)
			}
			values[key] = value
		}
	}
	return values, nil
}

// store does what a create does: defaults, the registry's own preparation and checks, the storage's encoding.
func (k kind) store(factory serverstorage.StorageFactory, versioned runtime.Object) (key string, value []byte, err error) {
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(versioned)
	if err != nil {
		return "", nil, err
	}
	resource := kinds[0].GroupVersion().WithResource(k.resource)
	legacyscheme.Scheme.Default(versioned)
	object, err := legacyscheme.Scheme.UnsafeConvertToVersion(versioned, runtime.InternalGroupVersioner)
	if err != nil {
		return "", nil, err
	}
	metadata, err := meta.Accessor(object)
	if err != nil {
		return "", nil, err
	}
	ctx := request.WithNamespace(context.Background(), metadata.GetNamespace())
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{APIGroup: resource.Group, APIVersion: resource.Version})
	if key, err = k.key(ctx, root+"/"+factory.ResourcePrefix(resource.GroupResource()), metadata.GetName()); err != nil {
		return "", nil, err
	}
	metadata.SetCreationTimestamp(created)
	metadata.SetUID(uidOf(key))
	if err := rest.BeforeCreate(k.strategy, ctx, object); err != nil {
		return "", nil, err
	}
	config, err := factory.NewConfig(resource.GroupResource(), object)
	if err != nil {
		return "", nil, err
	}
	value, err = runtime.Encode(config.Codec, object)
	return key, value, err
}

func (k kind) key(ctx context.Context, prefix, name string) (string, error) {
	if k.strategy.NamespaceScoped() {
		return registry.NamespaceKeyFunc(ctx, prefix, name)
	}
	return registry.NoNamespaceKeyFunc(ctx, prefix, name)
}

// uidOf is a UUID of version 8 (RFC 9562, 5.8: vendor's own), from the SHA-256 of the object's key.
func uidOf(key string) types.UID {
	sum := sha256.Sum256([]byte("perigee seed " + key))
	uid := uuid.UUID(sum[:16])
	uid[6] = uid[6]&0x0f | 0x80
	uid[8] = uid[8]&0x3f | 0x80
	return types.UID(uid.String())
}
