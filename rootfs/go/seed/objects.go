package main

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	flowcontrol "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/registry/rest"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // kinds of the groups that objects are of
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	policy "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// kind is what is made of one resource: the API's name for it, how the API server prepares one, and all of them.
type kind struct {
	resource string
	strategy rest.RESTCreateStrategy
	objects  []runtime.Object
}

// objects is what an API server with the default feature gates creates at its first start, from upstream's own tables.
//
// Left out is what depends on the node (leases, the Service `kubernetes` with its range and endpoints, the
// authentication's ConfigMap) and what upstream has no table of (APIServices come from the running server).
func objects() []kind {
	return []kind{
		{"namespaces", namespace.Strategy, namespaces()},
		{"clusterroles", clusterrole.Strategy, append(each(policy.ClusterRoles()), each(policy.ControllerRoles())...)},
		{"clusterrolebindings", clusterrolebinding.Strategy,
			append(each(policy.ClusterRoleBindings()), each(policy.ControllerRoleBindings())...)},
		{"roles", role.Strategy, eachOf(policy.NamespaceRoles())},
		{"rolebindings", rolebinding.Strategy, eachOf(policy.NamespaceRoleBindings())},
		{"priorityclasses", priorityclass.Strategy, all(schedulingv1.SystemPriorityClasses())},
		{"prioritylevelconfigurations", prioritylevelconfiguration.Strategy,
			append(all(flowcontrol.MandatoryPriorityLevelConfigurations), all(flowcontrol.SuggestedPriorityLevelConfigurations)...)},
		{"flowschemas", flowschema.Strategy,
			append(all(flowcontrol.MandatoryFlowSchemas), all(flowcontrol.SuggestedFlowSchemas)...)},
	}
}

// namespaces are those of kube-apiserver's SystemNamespaces (cmd/kube-apiserver/app/options).
func namespaces() (made []runtime.Object) {
	for _, name := range []string{
		metav1.NamespaceDefault, metav1.NamespacePublic, metav1.NamespaceSystem, corev1.NamespaceNodeLease,
	} {
		made = append(made, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return made
}

// pointer is a *T that is an API object.
type pointer[T any] interface {
	*T
	runtime.Object
}

func each[T any, P pointer[T]](table []T) (objects []runtime.Object) {
	for i := range table {
		objects = append(objects, P(&table[i]))
	}
	return objects
}

func eachOf[T any, P pointer[T]](tables map[string][]T) (objects []runtime.Object) {
	for _, table := range tables {
		objects = append(objects, each[T, P](table)...)
	}
	return objects
}

func all[P runtime.Object](table []P) (objects []runtime.Object) {
	for _, object := range table {
		objects = append(objects, object)
	}
	return objects
}
