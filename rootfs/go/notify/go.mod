module perigee/notify

go 1.26
