#!/usr/bin/env python3
from _command import main

main('export')
