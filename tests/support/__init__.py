"""Servers, clients and factories that the tests share."""
