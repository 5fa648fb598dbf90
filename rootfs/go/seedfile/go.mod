module perigee/seedfile

go 1.26.0
