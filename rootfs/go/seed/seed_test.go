package main

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	policy "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
	"perigee/seedfile"
)

// written is what the tool writes.
func written(t *testing.T) map[string][]byte {
	t.Helper()
	values, err := stored(objects())
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// read is each object as a client of the API sees it, decoded as from the store.
func read(t *testing.T, values map[string][]byte) (objects []runtime.Object) {
	t.Helper()
	for key, value := range values {
		if !strings.HasPrefix(string(value), "k8s\x00") {
			t.Errorf("%s: is not encoded as protobuf", key)
		}
		object, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(value, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		objects = append(objects, object)
	}
	return objects
}

func TestTheSameBytesEachTime(t *testing.T) {
	one, err := seedfile.Encode(written(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		other, err := seedfile.Encode(written(t))
		if err != nil || string(one) != string(other) {
			t.Fatal("they differ", err)
		}
	}
}

func TestEveryObjectIsKnownByItsKeyAndByAUIDOfItsOwn(t *testing.T) {
	values := written(t)
	for _, key := range []string{
		"/registry/namespaces/kube-system",
		"/registry/clusterroles/cluster-admin",
		"/registry/clusterroles/system:controller:node-controller",
		"/registry/clusterrolebindings/cluster-admin",
		"/registry/roles/kube-system/extension-apiserver-authentication-reader",
		"/registry/rolebindings/kube-public/system:controller:bootstrap-signer",
		"/registry/priorityclasses/system-node-critical",
		"/registry/prioritylevelconfigurations/exempt",
		"/registry/flowschemas/catch-all",
	} {
		if values[key] == nil {
			t.Errorf("no %s", key)
		}
	}
	seen := make(map[string]bool)
	for _, object := range read(t, values) {
		metadata, err := meta.Accessor(object)
		if err != nil {
			t.Fatal(err)
		}
		uid := string(metadata.GetUID())
		if len(uid) != 36 || uid[14] != '8' || !strings.ContainsRune("89ab", rune(uid[19])) || seen[uid] {
			t.Errorf("%s: uid %q", metadata.GetName(), uid)
		}
		seen[uid] = true
		if stamp := metadata.GetCreationTimestamp(); !stamp.Equal(&created) {
			t.Errorf("%s: created %v", metadata.GetName(), stamp)
		}
	}
}

// As in the hook rbac/bootstrap-roles (pkg/registry/rbac/rest/storage_rbac.go).
func TestUpstreamsReconciliationFindsNothingToDo(t *testing.T) {
	client := fake.NewClientset(read(t, written(t))...)
	rbac := client.RbacV1()
	roles := func(owner reconciliation.RuleOwner, modifier reconciliation.RuleOwnerModifier) {
		options := reconciliation.ReconcileRoleOptions{Role: owner, Client: modifier, Confirm: true}
		result, err := options.Run()
		if err != nil || result.Operation != reconciliation.ReconcileNone || result.Protected ||
			len(result.MissingRules)+len(result.ExtraRules)+len(result.MissingAggregationRuleSelectors) > 0 {
			t.Errorf("%s: %+v, %v", owner.GetName(), result, err)
		}
	}
	bindings := func(binding reconciliation.RoleBinding, modifier reconciliation.RoleBindingModifier) {
		options := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Client: modifier, Confirm: true}
		result, err := options.Run()
		if err != nil || result.Operation != reconciliation.ReconcileNone || result.Protected ||
			len(result.MissingSubjects)+len(result.ExtraSubjects) > 0 {
			t.Errorf("%s: %+v, %v", binding.GetName(), result, err)
		}
	}
	for _, wanted := range append(policy.ClusterRoles(), policy.ControllerRoles()...) {
		roles(reconciliation.ClusterRoleRuleOwner{ClusterRole: &wanted},
			reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()})
	}
	for _, wanted := range append(policy.ClusterRoleBindings(), policy.ControllerRoleBindings()...) {
		bindings(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &wanted},
			reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()})
	}
	for _, wanted := range flat(policy.NamespaceRoles()) {
		roles(reconciliation.RoleRuleOwner{Role: &wanted},
			reconciliation.RoleModifier{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()})
	}
	for _, wanted := range flat(policy.NamespaceRoleBindings()) {
		bindings(reconciliation.RoleBindingAdapter{RoleBinding: &wanted},
			reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()})
	}
	for _, action := range client.Actions() {
		if action.GetVerb() != "get" {
			t.Errorf("%s %s", action.GetVerb(), action.GetResource())
		}
	}
	if count := len(client.Actions()); count < 100 {
		t.Errorf("only %d objects were looked at", count)
	}
}

func flat[T any](tables map[string][]T) (all []T) {
	for table := range maps.Values(tables) {
		all = append(all, table...)
	}
	return all
}

// What upstream compares at each start is the specification: it must be as in its table.
func TestOtherObjectsAreAsInUpstreamsTables(t *testing.T) {
	stored := make(map[string]runtime.Object)
	name := func(object runtime.Object) string {
		metadata, err := meta.Accessor(object)
		if err != nil {
			t.Fatal(err)
		}
		return reflect.TypeOf(object).String() + " " + metadata.GetNamespace() + "/" + metadata.GetName()
	}
	for _, object := range read(t, written(t)) {
		stored[name(object)] = object
	}
	count := 0
	for _, kind := range objects() {
		for _, object := range kind.objects {
			wanted := object.DeepCopyObject()
			legacyscheme.Scheme.Default(wanted)
			found := stored[name(wanted)]
			count++
			if found == nil {
				t.Errorf("%s is not stored", name(wanted))
			} else if !equality.Semantic.DeepEqual(specification(wanted), specification(found)) {
				t.Errorf("%s: is %v, expected %v", name(wanted), specification(found), specification(wanted))
			}
		}
	}
	if count != len(stored) {
		t.Errorf("%d objects are stored, %d are in the tables", len(stored), count)
	}
}

// specification is the object without its metadata and status. A namespace has none: the registry makes it.
func specification(object runtime.Object) map[string]any {
	fields := make(map[string]any)
	if _, made := object.(*corev1.Namespace); made {
		return fields
	}
	value := reflect.ValueOf(object).Elem()
	for i := range value.NumField() {
		switch name := value.Type().Field(i).Name; name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			fields[name] = value.Field(i).Interface()
		}
	}
	return fields
}
