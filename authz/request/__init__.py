"""What is asked, and by whom: the check request, its path, its body and the identity."""
