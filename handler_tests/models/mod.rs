mod flux;
