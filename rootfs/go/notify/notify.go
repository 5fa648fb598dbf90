package notify

func Start() {}
